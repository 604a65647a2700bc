#!/usr/bin/env bash
# The three stages one after the other, each when the one before has finished:
#
#   bash launch/stages.sh FOLDER [--sbatch-option=value ...] [key=value ...]
#
# They write to FOLDER/base, FOLDER/interpolation and FOLDER/vsr, which `lavie generate --cascade FOLDER` reads. Options
# and changes go to all three jobs; a change for one stage belongs in that stage's config. Where compute nodes may submit
# jobs, `sbatch launch/stages.sh ...` does the same.
#SBATCH --job-name=lavie-stages
#SBATCH --time=00:05:00
set -euo pipefail

usage="usage: bash launch/stages.sh FOLDER [--sbatch-option=value ...] [key=value ...]"
cd "${SLURM_SUBMIT_DIR:-.}"
[[ -f launch/base.slurm ]] || { echo "stages.sh: start it from the checkout's root" >&2; exit 2; }
for name in "${!SLURM_@}"; do # run as a job, this script must not hand its own job's variables to the jobs it submits
    [[ $name == SLURM_CONF ]] || unset "$name"
done

[[ $# -gt 0 && $1 != -* && $1 != *=* ]] || { echo "$usage" >&2; exit 2; }
folder=$1
shift
options=() changes=()
for argument in "$@"; do
    case $argument in
        --*=*) options+=("$argument") ;;
        *=*) changes+=("$argument") ;;
        *) printf 'stages.sh: got %q\n%s\n' "$argument" "$usage" >&2; exit 2 ;;
    esac
done

# Each job waits for the one before to end with code 0; if that fails, SLURM cancels those after it.
after=()
for stage in base interpolation vsr; do
    stage_changes=("output_dir=$folder/$stage")
    if [[ $stage == interpolation ]]; then stage_changes+=("init_weights=$folder/base"); fi
    job=$(sbatch --parsable --kill-on-invalid-dep=yes "${after[@]}" "${options[@]}" "launch/$stage.slurm" \
        "${stage_changes[@]}" "${changes[@]}")
    job=${job%%;*} # a federation adds the cluster's name
    echo "$stage: job $job${after[*]:+, $(printf %s "${after[*]#--dependency=}")}"
    after=("--dependency=afterok:$job")
done

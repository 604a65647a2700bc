#!/usr/bin/env bash
# The three stages one after the other, each when the one before has finished:
#
#   bash launch/stages.sh FOLDER [--sbatch-option=value ...] [key=value ...]
#
# They write to FOLDER/base, FOLDER/interpolation and FOLDER/vsr, which is what `lavie generate --cascade FOLDER` reads.
# Options and changes go to all three jobs; what is one stage's own belongs into its config. Where compute nodes may
# submit, `sbatch launch/stages.sh ...` does the same.
#SBATCH --job-name=lavie-array
#SBATCH --time=00:05:00
set -euo pipefail

usage="usage: bash launch/stages.sh FOLDER [--sbatch-option=value ...] [key=value ...]"
cd "${SLURM_SUBMIT_DIR:-.}"
[[ -f launch/base.slurm ]] || { echo "stages.sh: start it from the checkout's root" >&2; exit 2; }
for name in "${!SLURM_@}"; do # of this job, where it is one: not for those it submits
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

after=()
for stage in base interpolation vsr; do
    own=("output_dir=$folder/$stage")
    if [[ $stage == interpolation ]]; then own+=("init_weights=$folder/base"); fi
    job=$(sbatch --parsable --kill-on-invalid-dep=yes "${after[@]}" "${options[@]}" "launch/$stage.slurm" "${own[@]}" "${changes[@]}")
    job=${job%%;*} # a federation adds the cluster's name
    echo "$stage: job $job${after[*]:+, $(printf %s "${after[*]#--dependency=}")}"
    after=("--dependency=afterok:$job")
done

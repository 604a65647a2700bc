"""Prompts in the form of VBench's, for its tests and those of its commands."""

import json
from pathlib import Path

ENTRIES = [
    {"prompt_en": "In a still frame, a sign", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a dog runs", "dimension": ["subject_consistency", "dynamic_degree", "motion_smoothness"]},
    {
        "prompt_en": "a façade, oil painting",
        "dimension": ["appearance_style"],
        "auxiliary_info": {"appearance_style": {"appearance_style": "oil painting"}},
    },
    {"prompt_en": "a beach", "dimension": ["scene", "background_consistency"]},
    {"prompt_en": "a façade, oil painting", "dimension": ["overall_consistency", "aesthetic_quality"]},
]
"""Five entries of four prompts: 3 * 5 + 25 files."""


def write_suite(path: Path, entries: object = ENTRIES) -> Path:
    """Write entries as VBench_full_info.json, and return the file."""
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path

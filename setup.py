"""Packaging of lavie. Versions here are floors; constraints.txt holds the exact set that is tested."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

# The one place of the version is lavie/__init__.py, which cannot be imported before its dependencies are installed.
INIT = Path(__file__).with_name("lavie") / "__init__.py"
VERSION = re.findall(r'^__version__ = "(.+)"$', INIT.read_text(encoding="utf-8"), re.MULTILINE)[0]
REMOTE = ["fsspec[http]>=2025.3"]
MPI = ["mpi4py>=4"]
DALI = ["nvidia-dali-cuda130>=2.4; sys_platform == 'linux'"]
EIGHT_BIT = ["bitsandbytes>=0.49"]
WANDB = ["wandb>=0.19"]
PAGES = ["starlette>=0.46", "uvicorn>=0.34"]
CURATE = ["pyarrow>=18", "scenedetect-headless>=0.7", "opencv-python-headless>=4.10"]
OCR = ["rapidocr>=3", "onnxruntime>=1.20"]
RAY = ["ray>=2.40"]
DEV = [
    *CURATE,
    *DALI,
    *EIGHT_BIT,
    *MPI,
    *OCR,
    *PAGES,
    *RAY,
    *REMOTE,
    "choix>=0.4",
    "hypothesis",
    "mypy>=1.11",
    "peft>=0.17",
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist>=3.6",
    "rotary-embedding-torch>=0.8",
    "ruff>=0.6",
    "scipy",
    "statsmodels>=0.14",
    "triton>=3.6",
    "types-PyYAML",
]

setup(
    name="lavie",
    version=VERSION,
    description="The trainer for LaVie, the text-to-video diffusion cascade",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["lavie", "lavie.*"]),
    # lavie/configs and lavie/kernels are links to the folders of the checkout; a wheel holds what they lead to.
    package_data={
        "lavie": ["py.typed"],
        "lavie.configs": ["*.yaml", "*.json"],
        "lavie.configs.smoke": ["*.yaml"],
        "lavie.pages.data": ["*.html", "*.css", "*.js"],
        "lavie.pages.human": ["*.html", "*.css", "*.js"],
        "lavie.pages.play": ["*.html", "*.css", "*.js"],
        "lavie.pages.report": ["*.html", "*.css", "*.js"],
        "lavie.pages.serving": ["*.css", "*.js", "*.svg"],
    },
    install_requires=[
        "torch>=2.10",
        "deepspeed>=0.19.8",
        "transformers>=4.57",
        "diffusers>=0.35",
        "safetensors>=0.5",
        "webdataset>=1.0",
        "av>=18",
        "numpy>=1.26",
        "pillow>=11",
        "pydantic>=2.8",
        "pyyaml>=6",
        "typer>=0.15",
        "rich>=13.9",
        "tensorboard>=2.18",
        "matplotlib>=3.9",
        "psutil>=6",
        "ninja>=1.11",
    ],
    # triton comes with CUDA builds of torch; "dev" has it for the interpreter and the compiler on a CPU.
    extras_require={
        "dev": DEV,
        "8bit": EIGHT_BIT,
        "curate": CURATE,
        "dali": DALI,
        "flash": ["flash-attn>=2.7"],
        "mpi": MPI,
        "ocr": OCR,
        "pages": PAGES,
        "ray": RAY,
        "remote": REMOTE,
        "wandb": WANDB,
    },
    entry_points={"console_scripts": ["lavie = lavie.cli.main:main"]},
)

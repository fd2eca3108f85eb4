"""One frozen, checked class per stage: every key has a type, a default and a description.

Imports the vocabulary, `languages`, ir_measures and pydantic; `load`, which reads YAML and overrides, also `tables`.
A URI is a local path or `s3://bucket/prefix`. Environment variables carry credentials only. All keys:
docs/configuration.md.
"""

from rrad_ray.config.answering import OpenAIConfig, SimulatedConfig
from rrad_ray.config.base import MINILM, MULTILINGUAL_E5, SMOLLM2, StagePaths
from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.config.data import IndexConfig, PickConfig, PrerankConfig, RetrieveConfig
from rrad_ray.config.evaluation import EvaluateConfig, QrelsConfig, SelectConfig, WinnerRule
from rrad_ray.config.exporting import LOG_FORMATS, STUDENT_FORMATS, ExportConfig
from rrad_ray.config.labelling import GateConfig, JudgeConfig, LabelConfig, PromptConfig
from rrad_ray.config.nightly import LAST_STUDENT, NEW_STUDENT, CollectConfig, PublishConfig
from rrad_ray.config.online import ONLINE_METRICS, ExpectConfig, ExperimentConfig, ExperimentDesign, TrafficConfig
from rrad_ray.config.serving import IDENTITY, WINNER, OnlineConfig, SearchConfig, ServeConfig
from rrad_ray.config.training import FinetuneConfig, FitConfig, GenerationConfig, TermsConfig, TrainConfig

__all__ = [
    "IDENTITY",
    "LAST_STUDENT",
    "LOG_FORMATS",
    "MINILM",
    "MULTILINGUAL_E5",
    "NEW_STUDENT",
    "ONLINE_METRICS",
    "SMOLLM2",
    "STUDENT_FORMATS",
    "WINNER",
    "ChunksConfig",
    "CollectConfig",
    "EvaluateConfig",
    "ExpectConfig",
    "ExperimentConfig",
    "ExperimentDesign",
    "ExportConfig",
    "FinetuneConfig",
    "FitConfig",
    "GateConfig",
    "GenerationConfig",
    "IndexConfig",
    "JudgeConfig",
    "LabelConfig",
    "OnlineConfig",
    "OpenAIConfig",
    "PickConfig",
    "PrerankConfig",
    "PromptConfig",
    "PublishConfig",
    "QrelsConfig",
    "RetrieveConfig",
    "SearchConfig",
    "SelectConfig",
    "ServeConfig",
    "SimulatedConfig",
    "StagePaths",
    "TermsConfig",
    "TrafficConfig",
    "TrainConfig",
    "WinnerRule",
]

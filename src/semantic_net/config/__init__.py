"""The configuration: one frozen dataclass per section, read from YAML, checked before use."""

from semantic_net.config.learned import (
    CsvConfig,
    DataConfig,
    DisasterConfig,
    NetqosConfig,
    PartitionConfig,
    TaskConfig,
)
from semantic_net.config.loader import dump_config, load_config
from semantic_net.config.sections import (
    AggregationConfig,
    Config,
    MonitoringConfig,
    P2PConfig,
    PrivacyConfig,
    SecurityConfig,
    TrainingConfig,
)
from semantic_net.config.semantic import SemanticConfig

__all__ = [
    "AggregationConfig",
    "Config",
    "CsvConfig",
    "DataConfig",
    "DisasterConfig",
    "MonitoringConfig",
    "NetqosConfig",
    "P2PConfig",
    "PartitionConfig",
    "PrivacyConfig",
    "SecurityConfig",
    "SemanticConfig",
    "TaskConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
]

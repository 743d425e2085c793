"""What is known of a model before it is built."""

from dataclasses import dataclass

__all__ = ["PretrainedCfg"]


@dataclass(frozen=True)
class PretrainedCfg:
    """Where trained weights come from; what they need (classes, normalisation) is in the config.json beside them.

    Attributes:
        hub_id: repository on the Hugging Face Hub, "org/name" or "org/name@revision", or None.
        description: one line for ``list_models`` readers.
    """

    hub_id: str | None = None
    description: str = ""

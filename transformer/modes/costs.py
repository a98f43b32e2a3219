"""What a configuration costs; runs nothing."""

from transformer import families
from transformer.config import Config
from transformer.models import accounts


def describe(config: Config) -> None:
    """Parameters, FLOPs and bytes."""
    families.kind_of(config)
    print(accounts.table(families.FAMILIES[config.family].account(config, accounts.assumed_facts(config), ())))

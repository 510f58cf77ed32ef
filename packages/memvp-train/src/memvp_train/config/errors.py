"""How settings refuse: one exception, and the check that raises it."""


class ConfigError(ValueError):
    """A setting is impossible, or two settings exclude each other."""


def require(condition: bool, *, message: str) -> None:
    """Raise `ConfigError` with one sentence unless the condition holds."""
    if not condition:
        raise ConfigError(message)

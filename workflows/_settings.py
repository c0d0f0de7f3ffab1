"""Luigi's settings as this package recommends them."""

from __future__ import annotations

import configparser
from importlib.resources import files

from luigi.configuration import get_config


def apply_settings() -> None:
    """Set what ``luigi.cfg`` beside this module says, wherever the user's own says nothing."""
    recommended = configparser.ConfigParser()
    recommended.read_string(files("workflows").joinpath("luigi.cfg").read_text())
    config = get_config()
    for section in recommended.sections():
        for option, value in recommended.items(section):
            if not config.has_option(section, option):
                config.set(section, option, value)

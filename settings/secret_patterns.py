"""Recognises secrets by their shape: tokens of services, and private keys. Logs and datasets share the list."""

import re

from .key_format import KEY

TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}"
    r"|sk-(?:(?:proj|ant|svcacct|admin|None|or)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{20,})"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}"
    r"|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[0-9A-Za-z_-]{35}"
    rf"|{KEY.pattern})"
)
"""Tokens of the model hub, of hosted models, of AWS, GitHub, Slack and Google, and celora's own keys."""

PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----(?s:.*?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----|.*)"
)
"""A PEM block, also one whose end was cut off."""

SECRET = re.compile(f"{TOKEN.pattern}|{PRIVATE_KEY.pattern}")
"""Either of them."""

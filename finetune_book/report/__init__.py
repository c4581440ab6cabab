"""Reports from notebooks. What a report's notebook calls stands here by name, and is loaded when first used."""
_HOME = {"require": "finetune_book.report.params", "record": "finetune_book.report.record",
         "state_dir": "finetune_book.report.publish"}
__all__ = [*_HOME]


def __getattr__(name):
    "Import the module a name lives in when the name is first asked for (PEP 562)."
    if name not in _HOME:
        raise AttributeError(f"module 'finetune_book.report' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(_HOME[name]), name)


def __dir__():
    return sorted(__all__)

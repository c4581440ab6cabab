"""A book on fine-tuning foundation models, as a library. The names below load torch and transformers when first used."""
__version__ = "0.1.0"

_HOME = {"TextClassifier": "finetune_book.text.classifier", "TextRegressor": "finetune_book.text.classifier",
         "ImageClassifier": "finetune_book.vision.classifier", "ImageRegressor": "finetune_book.vision.classifier",
         "QuestionAnswerer": "finetune_book.text.answerer",
         "TextGenerator": "finetune_book.text.generator",
         "TextMatcher": "finetune_book.text.matcher", "Searcher": "finetune_book.find.searcher"}
__all__ = ["__version__", *_HOME]


def __getattr__(name):
    "Import the module a name lives in when the name is first asked for (PEP 562)."
    if name not in _HOME:
        raise AttributeError(f"module 'finetune_book' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(_HOME[name]), name)


def __dir__():
    return sorted(__all__)

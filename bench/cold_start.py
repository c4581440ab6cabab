"""One sentence from a cold start, the whole life of a program: a saved book-bert classifier opened by transformers, by TextClassifier.load, and to read only (`library/quick`)."""
import subprocess
import sys
import tempfile
from pathlib import Path

from _timing import compare

from finetune_book import TextClassifier

OPENED = {
    "transformers": "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T; m, t = M.from_pretrained(F), T.from_pretrained(F); print(m(**t(['It works.'], return_tensors='pt')).logits)",
    "TextClassifier": "from finetune_book import TextClassifier; print(TextClassifier.load(F).predict(['It works.']))",
    "QuickClassifier": "from finetune_book.text.quick import QuickClassifier; print(QuickClassifier(F).predict(['It works.']))",
    "finetune-book predict": "import sys; sys.argv = ['finetune-book', 'predict', '-m', F, 'It works.']; from finetune_book.cli import main; main()",
    "import torch alone": "import torch",
}


def program(folder, code):
    "A function that runs `code` in a fresh Python, F being the folder of the model."
    def run(): subprocess.run([sys.executable, "-c", f"F = {str(folder)!r}; {code}"], check=True, capture_output=True)
    return run


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        folder = TextClassifier(tune="head", epochs=1, verbose=0).fit(["good", "bad"] * 4, ["yes", "no"] * 4).save(Path(work) / "model")
        compare({name: program(folder, code) for name, code in OPENED.items()}, rounds=5, at_least_s=0, title="One sentence, a fresh program each time")

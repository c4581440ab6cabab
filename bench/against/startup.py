"""Contestants that are whole programs, timed from the call to the end."""
import subprocess
import sys
from pathlib import Path

from .prepare import MODEL

TEXT = "Denies chest pain, burning on urination for two days."
RUNS = {
    "help": "import sys; sys.argv = ['finetune-book', '--help']; from finetune_book.cli import main; main()",
    "import": "import finetune_book",
    "estimator": "from finetune_book import TextClassifier",
    "torch": "import torch",
    "hf": "from transformers import Trainer",
    "answer": "import sys; sys.argv = ['finetune-book', 'predict', '-m', F, T]; from finetune_book.cli import main; "
              "main()",
    "answer_hf": "from transformers import pipeline; print(pipeline('text-classification', F)(T))",
}


class Program:
    runs_programs = True
    def __init__(self, job):
        folder = str(Path(job["work"]) / MODEL)
        self.code = f"F = {folder!r}; T = {TEXT!r}; {RUNS[job['run']]}"

    def round(self): subprocess.run([sys.executable, "-c", self.code], check=True, stdout=subprocess.DEVNULL)
    def check(self): return {}

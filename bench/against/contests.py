"""Who is timed against whom, with which settings: a list, without anything heavy.

A contest is one piece of work. Its contestants do it in turn, each in a process of its own; the first is ours. Ours
runs on its defaults, and only what is named in `settings` is the same for all: seed, epochs, rate, size of a batch.
"""
from dataclasses import dataclass, field

TRAINER = ("accelerate",)                                   # what transformers' Trainer does not run without
RUNTIME = ("onnxruntime", "onnx", "onnxscript")


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Attributes
    ----------
    name : str, its key in the results; title, zh : what the tables call it, in English and in Chinese
    make : "module:name" of a class, called with the job (dict)
    needs : packages without which it stays out
    options : dict, joined to the contest's settings; ours : bool
    """
    name: str
    title: str
    zh: str
    make: str
    needs: tuple = ()
    options: dict = field(default_factory=dict)
    ours: bool = False


@dataclass(frozen=True)
class Contest:
    """Contestants and the work they are given.

    Attributes
    ----------
    settings : dict, what is the same for all; quick : dict, what replaces it in a quick look
    materials : names of what `prepare` must lay out; rounds : int, timed rounds after the warm-up
    compared : bool, whether the contestants do the same work
    """
    name: str
    title: str
    zh: str
    contestants: tuple
    settings: dict
    quick: dict
    materials: tuple
    rounds: int = 5
    compared: bool = True


def ours(name, title, zh, make, **options): return Contestant(name, title, zh, make, (), options, ours=True)


def trainer(make, best="group_by_length, bf16", **options):
    "transformers' Trainer as it comes, and at its best settings."
    return (Contestant("trainer", "HF Trainer, defaults", "HF Trainer，默认设置", make, TRAINER, options),
            Contestant("trainer_best", f"HF Trainer, {best}", f"HF Trainer，{best}", make, TRAINER,
                       {**options, "best": True}))


def sized(n): return ours(f"n{n}", f"ours, {n:,} texts", f"本书，{n:,} 条文本", "against.text:Growing", n=n)


def reading(n, rounds):
    "`predict` of n texts."
    return Contest(f"predict_{n}", f"predict, {n:,} short texts", f"预测，{n:,} 条短文本", (
        ours("ours", "ours", "本书", "against.reading:Ours"),
        Contestant("pipeline", "transformers.pipeline, batches of 32", "transformers.pipeline，每批 32 条",
                   "against.reading:Pipeline"),
        Contestant("onnx", "ONNX Runtime, float32, sorted by length", "ONNX Runtime，float32，按长度排序",
                   "against.reading:Onnx", RUNTIME)),
        dict(n=n), dict(n=96), ("texts", "model"), rounds)


LOOP_TEXT = Contestant("loop", "plain loop, padded to 128", "普通循环，补齐到 128", "against.text:Loop")
LOOP_PICTURES = Contestant("loop", "torchvision transforms, DataLoader, plain loop",
                           "torchvision 变换、DataLoader、普通循环", "against.pictures:Loop")
SIZES = (sized(1000), sized(10_000))
LARGE = sized(100_000)                                      # asked for by --large: some twelve minutes a round on two cores
QUICK_SIZES = (sized(32), sized(96))
SAME = dict(seed=0, batch_size=16, max_length=128)

CONTESTS = (
    Contest("text_full", "text, everything moves, 640 texts, 5 epochs", "文本，全部微调，640 条，5 轮",
            (ours("ours", "ours", "本书", "against.text:Ours"),
             ours("exact", 'ours, precision="float32", shortcuts="table"', '本书，precision="float32", shortcuts="table"',
                  "against.text:Ours", precision="float32", shortcuts="table"), *trainer("against.text:HFTrainer"), LOOP_TEXT),
            SAME | dict(n=640, epochs=5, lr=2e-4), dict(n=64, epochs=1), ("texts",), 3),
    Contest("text_head", "text, frozen body, 640 texts, 10 epochs", "文本，冻结主体，640 条，10 轮",
            (ours("ours", "ours, the same steps", "本书，同样的步数", "against.text:Ours", tune="head"),
             ours("solved", "ours, tune=\"head\" alone", "本书，只给 tune=\"head\"", "against.text:Ours", tune="head",
                  left_open=("lr", "epochs", "batch_size")),
             *trainer("against.text:HFTrainer", tune="head")),
            SAME | dict(n=640, epochs=10, lr=1e-2), dict(n=64, epochs=2), ("texts",), 3),
    Contest("pictures", "pictures of 32 pixels, everything moves, 2,000, 4 epochs", "32 像素图片，全部微调，2,000 张，4 轮",
            (ours("ours", "ours", "本书", "against.pictures:Ours"),
             ours("exact", 'ours, precision="float32"', '本书，precision="float32"', "against.pictures:Ours",
                  precision="float32"), LOOP_PICTURES,
             *trainer("against.pictures:HFTrainer", "bf16, channels last")),
            dict(seed=0, batch_size=32, n=2000, epochs=4, lr=3e-3), dict(n=96, epochs=1), ("pictures",), 3),
    reading(3000, 5), reading(10000, 2),
    Contest("start", "a fresh program", "新启动的程序", (
        ours("help", "finetune-book --help", "finetune-book --help", "against.startup:Program", run="help"),
        ours("import", "import finetune_book", "import finetune_book", "against.startup:Program", run="import"),
        ours("estimator", "from finetune_book import TextClassifier", "from finetune_book import TextClassifier",
             "against.startup:Program", run="estimator"),
        Contestant("torch", "import torch", "import torch", "against.startup:Program", options={"run": "torch"}),
        Contestant("hf", "from transformers import Trainer", "from transformers import Trainer", "against.startup:Program",
                   TRAINER, {"run": "hf"}),
        ours("answer", "first answer: finetune-book predict", "第一个回答：finetune-book predict", "against.startup:Program",
             run="answer"),
        Contestant("answer_hf", "first answer: transformers.pipeline", "第一个回答：transformers.pipeline",
                   "against.startup:Program", options={"run": "answer_hf"})), {}, {}, ("texts", "model"),
            compared=False),
    Contest("growing", "more texts, everything moves, 1 epoch", "更多文本，全部微调，1 轮", SIZES, SAME | dict(epochs=1, lr=2e-4), {},
            ("texts", "many"), 2, compared=False),
)

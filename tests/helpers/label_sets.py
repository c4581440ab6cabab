"A table in which every row has several labels: joined from single notes of the carried set."
import numpy as np


def joined_notes(n=500, labels=3, seed=0, by=";"):
    "DataFrame of text and label: each text is `labels` carried notes of different conditions one after the other, each label their names."
    import pandas as pd
    from finetune_book.data.tables import read_splits
    notes, rng = read_splits("clinic_notes")["train"], np.random.default_rng(seed)
    rows_of = {label: rng.permutation(np.flatnonzero(notes.label == label)).tolist() for label in sorted(notes.label.unique())}
    texts, cells = [], []
    for _ in range(n):
        some = rng.permutation([label for label, rows in rows_of.items() if rows])[:labels]
        texts.append(" ".join(notes.text.iloc[rows_of[label].pop()] for label in some))
        cells.append(by.join(some))
    return pd.DataFrame({"text": texts, "label": cells})

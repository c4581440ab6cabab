"""A picture model that learns nothing and says always the first class, for tests of scripts that train many."""
import numpy as np

NOTHING = np.zeros((4, 8, 8, 3), np.uint8)
PARTS = (NOTHING, np.array(list("abab"))), (NOTHING, np.array(list("aaab")))      # to learn from, and to be judged by: three of four are "a"


def model_noting(asked):
    "A class like ImageClassifier; the settings of each model made are added to the list `asked`."
    class Model:
        def __init__(self, **settings): asked.append(settings)
        def fit(self, x, y): return self
        def predict(self, x): return np.array(["a"] * len(x))
    return Model

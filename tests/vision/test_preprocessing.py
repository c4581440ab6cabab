"""Preprocessing: the sizes and scales that others write are read as they mean them."""
import json

import pytest

from finetune_book.checks import InputError
from finetune_book.vision.preprocessing import Preprocessing, read_preprocessing


@pytest.mark.parametrize("config, side", [
    ({"size": 224}, 224), ({"size": {"height": 96, "width": 96}}, 96), ({"size": {"shortest_edge": 64}}, 64),
    ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, 224),
    ({"size": 100, "do_center_crop": False, "crop_size": 50}, 100),
])
def test_sizes_in_the_wild(tmp_path, config, side):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert read_preprocessing(tmp_path) == Preprocessing(side)


def test_transformers_prepares_a_picture_as_we_do(tmp_path):
    "An oblong picture through our reader and Preprocessing, and through transformers with the file we write."
    import numpy as np
    from PIL import Image
    from transformers import AutoImageProcessor
    from finetune_book.data.images import read_picture
    prep = Preprocessing(40, (.5, .4, .3), (.2, .3, .4))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prep.to_dict()))
    y, x = np.mgrid[:90, :160]
    picture = Image.fromarray(np.stack([x, y, 128 + 60 * np.sin(x / 20)], 2).astype(np.uint8))
    ours = prep(read_picture(picture, 40)[None])
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (1, 3, 40, 40)
    assert (ours - theirs).abs().max() < .2 and (ours - theirs).abs().mean() < .02 and theirs.std() > .5


@pytest.mark.parametrize("settings, says", [
    (dict(size=3), r"size=3: must be a whole number of pixels from 4 to 2048"), (dict(size=32.), r"size=32.0"), (dict(size=True), "size=True"),
    (dict(size=32, mean=.5), "mean=0.5: must be three numbers"), (dict(size=32, mean=(.5, .5)), "three numbers, one per colour"),
    (dict(size=32, mean=(0, float("nan"), 0)), r"mean\[1\]=nan: must be a number"), (dict(size=32, std=(1, 1, 0)), r"std\[2\]=0: must be a number above 0"),
    (dict(size=32, std=(1, True, 1)), r"std\[1\]=True"),
])
def test_what_is_no_preprocessing_is_refused(settings, says):
    with pytest.raises(InputError, match=says) as e: Preprocessing(**settings)
    assert "\n" not in str(e.value)


def test_numpy_scalars_become_plain_values():
    import numpy as np
    prep = Preprocessing(np.int64(32), tuple(np.float64([.5, .5, .5])), tuple(np.float64([.25, .25, .25])))
    assert prep == Preprocessing(32, (.5,) * 3, (.25,) * 3) and json.loads(json.dumps(prep.to_dict())) == prep.to_dict()


def test_rescaling_by_hand(tmp_path):
    "Factor 1 and bytes up to 255: (255 u - 102) / 51 = (u - .4) / .2; and no normalisation at all."
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(dict(size=8, do_rescale=False, image_mean=[102.] * 3, image_std=[51.] * 3)))
    prep = read_preprocessing(tmp_path)
    assert prep.mean == pytest.approx((.4,) * 3) and prep.std == pytest.approx((.2,) * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(dict(size=8, do_normalize=False)))
    assert read_preprocessing(tmp_path) == Preprocessing(8, (0,) * 3, (1,) * 3)

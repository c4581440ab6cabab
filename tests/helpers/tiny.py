"""A BERT of a few thousand random numbers, saved as a base: fast enough to train in a test."""
from pathlib import Path

WORDS = ("the a pain chest fever cough denies no has had with for two days head ache knee left right good bad very room clean loud "
         "f0 f1 f2 f3 f4 f5 f6 f7 f8 f9 m p").split()


def save_tiny_base(folder: Path, width: int = 16, layers: int = 2, positions: int = 64) -> Path:
    "Write config, WordPiece tokenizer and safetensors of a random BERT to `folder`."
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast
    folder.mkdir(parents=True, exist_ok=True)
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789.,-"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS + [c for c in letters if c not in WORDS] + ["##" + c for c in letters]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    tokenizer = BertTokenizerFast(vocab={w: i for i, w in enumerate(vocab)}, do_lower_case=True, model_max_length=positions)
    tokenizer.save_pretrained(folder)
    config = BertConfig(vocab_size=len(vocab), hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
                        intermediate_size=2 * width, max_position_embeddings=positions, initializer_range=.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


def save_tiny_decoder(folder: Path, width: int = 32, layers: int = 2, positions: int = 64) -> Path:
    "Write a random GPT-2 whose tokens are bytes and a few merges, as a base."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    tok, end = Tokenizer(models.BPE()), "<|endoftext|>"
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator([" ".join(WORDS)], trainers.BpeTrainer(vocab_size=300, special_tokens=[end], show_progress=False,
                                                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=end, eos_token=end, unk_token=end, pad_token=end, model_max_length=positions).save_pretrained(folder)
    config = GPT2Config(vocab_size=tok.get_vocab_size(), n_positions=positions, n_embd=width, n_layer=layers, n_head=2, resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.,
                        bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def save_tiny_picture_base(folder: Path, width: int = 8, layers=(1, 1, 1, 1), size: int = 8) -> Path:
    "Write a random ResNet of four blocks as a base for pictures of `size` pixels."
    from finetune_book.vision.preprocessing import Preprocessing
    from finetune_book.vision.weights import from_config
    from finetune_book.vision.bases import save_image_model
    from finetune_book.vision.resnet import ResNetConfig
    return save_image_model(folder, from_config(ResNetConfig("basic", layers, 5, width, "32"), seed=0), Preprocessing(size, (.5,) * 3, (.25,) * 3))


def save_tiny_llama(folder: Path, width: int = 32, layers: int = 2, positions: int = 128) -> Path:
    "Write a random Llama as hubs have them, as a base: grouped heads, tied tables, chat marks, a vocabulary without some bytes, more rows than pieces."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from finetune_book.text.gpt import letter_bytes
    tok, marks = Tokenizer(models.BPE()), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = [c for c, byte in letter_bytes().items() if 32 <= byte < 127 or 128 <= byte < 0xF0 or byte == 10]      # as learned from text: no control characters, no rare planes
    tok.train_from_iterator([" ".join(WORDS)], trainers.BpeTrainer(vocab_size=320, special_tokens=marks, show_progress=False, initial_alphabet=letters))
    PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=marks[1], eos_token=marks[2], unk_token=marks[0], pad_token=marks[2],
                            model_max_length=10**30, chat_template="{{ messages }}").save_pretrained(folder)
    config = LlamaConfig(vocab_size=tok.get_vocab_size() + 5, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=positions, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
                         initializer_range=.1, rope_parameters=dict(rope_type="default", rope_theta=100_000.))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder

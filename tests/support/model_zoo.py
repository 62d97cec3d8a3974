"""Tiny random-weight rerankers of several families, saved as people save theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny import WORDS, tiny_cross_encoder

LIMIT = 40
_TEXT = [" ".join(WORDS[i : i + 6]) for i in range(len(WORDS) - 6)] * 3 + [
    "Straße, 東京 naïve 4.5%"
]


def _byte_level(specials: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


def _unigram(specials: list[str], unknown: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=specials, unk_token=unknown, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


def _template(tokenizer: Any, pair: str, *specials: str) -> None:
    from tokenizers import processors

    single = pair.split("$B")[0].strip()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(s, tokenizer.token_to_id(s)) for s in specials],
    )


def _save(folder: Path, tokenizer: Any, model: Any, **settings: Any) -> Path:
    from transformers import PreTrainedTokenizerFast

    settings.setdefault("model_max_length", LIMIT)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    model.eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _sizes(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_labels": 1,
        "initializer_range": 0.3,
        **more,
    }


def bert(folder: Path) -> Path:
    return tiny_cross_encoder(folder, max_length=LIMIT)


def _roberta_specials() -> dict[str, str]:
    return {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }


def roberta(folder: Path, **settings: Any) -> Path:
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    _template(tokenizer, "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    torch.manual_seed(1)
    config = RobertaConfig(
        **_sizes(vocab_size=400, max_position_embeddings=LIMIT + 2, type_vocab_size=1)
    )
    names = ["input_ids", "attention_mask"]
    model = RobertaForSequenceClassification(config)
    return _save(
        folder, tokenizer, model, model_input_names=names, **_roberta_specials(), **settings
    )


def xlm_roberta(folder: Path) -> Path:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<unk>")
    _template(tokenizer, "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    torch.manual_seed(2)
    config = XLMRobertaConfig(
        **_sizes(vocab_size=200, max_position_embeddings=LIMIT + 2, type_vocab_size=1)
    )
    names = ["input_ids", "attention_mask"]
    model = XLMRobertaForSequenceClassification(config)
    return _save(folder, tokenizer, model, model_input_names=names, **_roberta_specials())


def _bert_specials() -> dict[str, str]:
    return {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }


def modernbert(folder: Path, **settings: Any) -> Path:
    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    tokenizer = _byte_level(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    _template(tokenizer, "[CLS] $A [SEP] $B [SEP]", "[CLS]", "[SEP]")
    torch.manual_seed(3)
    config = ModernBertConfig(
        **_sizes(vocab_size=400, max_position_embeddings=128, pad_token_id=0, **settings),
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        reference_compile=False,
    )
    names = ["input_ids", "attention_mask"]
    model = ModernBertForSequenceClassification(config)
    return _save(folder, tokenizer, model, model_input_names=names, **_bert_specials())


def deberta(folder: Path) -> Path:
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    tokenizer = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    _template(tokenizer, "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", "[CLS]", "[SEP]")
    torch.manual_seed(4)
    config = DebertaV2Config(
        **_sizes(vocab_size=200, max_position_embeddings=64, type_vocab_size=0),
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        pooler_hidden_size=32,
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    model = DebertaV2ForSequenceClassification(config)
    return _save(folder, tokenizer, model, model_input_names=names, **_bert_specials())


def electra(folder: Path) -> Path:
    """ELECTRA with embeddings narrower than its layers."""
    import torch
    from transformers import ElectraConfig, ElectraForSequenceClassification

    tiny_cross_encoder(folder, max_length=LIMIT)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(5)
    config = ElectraConfig(**_sizes(vocab_size=size, max_position_embeddings=64), embedding_size=16)
    (folder / "config.json").unlink()
    ElectraForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "bert": bert,
    "electra": electra,
    "roberta": roberta,
    "xlm_roberta": xlm_roberta,
    "modernbert": modernbert,
    "deberta": deberta,
}


def tiny_encoder(folder: Path, pooling: str = "mean", normalise: bool = True) -> Path:
    """A sentence encoder around the tiny BERT's trunk."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    trunk = Transformer(str(tiny_cross_encoder(folder / "trunk")), max_seq_length=32)
    parts: list[Any] = [trunk, Pooling(32, pooling_mode=pooling)]
    SentenceTransformer(modules=parts + [Normalize()] * normalise, device="cpu").save(
        str(folder / "encoder"), create_model_card=False
    )
    return folder / "encoder"


# Models beyond one label, as sentence-transformers and their authors save them -------------------

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}<sys> {{ m.content }} "
    "{% elif m.role == 'query' %}<q> {{ m.content }} "
    "{% elif m.role == 'document' %}<d> {{ m.content }} {% endif %}{% endfor %}<end> answer :"
)
DECODER_LIMIT = 96


def _decoder_tokenizer(folder: Path, template: str | None, pad: bool = True) -> int:
    """Save a byte-level tokenizer with the words yes and no; the size of its vocabulary."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = _byte_level(["<pad>", "<sys>", "<q>", "<d>", "<end>", "yes", "no", "true"])
    specials = {"pad_token": "<pad>"} if pad else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=DECODER_LIMIT, **specials
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _decoder_sizes(size: int, **more: Any) -> dict[str, Any]:
    sizes = _sizes(vocab_size=size, max_position_embeddings=128, num_key_value_heads=2, head_dim=8)
    return sizes | {"pad_token_id": 0} | more


def causal(folder: Path, template: str | None = TEMPLATE, tied: bool = True) -> Path:
    """A Qwen3 language model, which says nothing about answers."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    size = _decoder_tokenizer(folder, template)
    torch.manual_seed(6)
    sizes = _decoder_sizes(size, tie_word_embeddings=tied)
    del sizes["num_labels"]
    Qwen3ForCausalLM(Qwen3Config(**sizes)).eval().save_pretrained(folder)
    return folder


def logit_score(folder: Path) -> Path:
    """Transformer + LogitScore with prompts, as converted Qwen3 rerankers are saved."""
    from sentence_transformers import CrossEncoder

    inner = causal(folder.with_name(folder.name + "_causal"))
    prompts = {"web": "find pages", "facts": "find the river and the stone"}
    model = CrossEncoder(str(inner), device="cpu", prompts=prompts, default_prompt_name="web")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def decoder_classifier(folder: Path, pad: bool = True) -> Path:
    """Qwen2ForSequenceClassification, whose config leaves the padding token to the tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    size = _decoder_tokenizer(folder, None, pad)
    torch.manual_seed(8)
    config = Qwen2Config(**_decoder_sizes(size, pad_token_id=None))
    Qwen2ForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def dense_chain(folder: Path, labels: int = 1, pooling: str = "cls", **settings: Any) -> Path:
    """Transformer + Pooling + Dense + LayerNorm + Dense, as Ettin's rerankers are saved."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    inner = modernbert(folder.with_name(folder.name + "_inner"), **settings)
    torch.manual_seed(9)
    modules = [
        Transformer(str(inner)),
        Pooling(32, pooling_mode=pooling),
        Dense(32, 32, activation_function=torch.nn.GELU()),
        LayerNorm(32),
        Dense(32, labels, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    for module in modules[2:]:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    CrossEncoder(modules=modules, device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def three_labels(folder: Path) -> Path:
    """BERT that classifies into three named labels."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tiny_cross_encoder(folder, max_length=LIMIT)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(10)
    names = {0: "no", 1: "maybe", 2: "yes"}
    sizes = _sizes(vocab_size=size, max_position_embeddings=64)
    del sizes["num_labels"]
    config = BertConfig(**sizes, id2label=names, label2id={n: i for i, n in names.items()})
    (folder / "config.json").unlink()
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def lora(folder: Path, build: Callable[[Path], Path] = bert) -> Path:
    """An adapter of rank 4, with a head if its base has one.

    Beside it the base, and `merged`: the base with the change added by hand.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    base, merged = folder.with_name("base"), folder.with_name("merged")
    build(base)
    weights = load_file(base / "model.safetensors")
    torch.manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    targets = set()
    for name, tensor in list(weights.items()):
        module = name.removesuffix(".weight")
        if module.endswith(("query", "value", "q_proj", "v_proj")):
            targets.add(module.rpartition(".")[2])
            up, down = torch.randn(len(tensor), 4) * 0.3, torch.randn(4, tensor.shape[1]) * 0.3
            tensors[f"base_model.model.{module}.lora_A.weight"] = down
            tensors[f"base_model.model.{module}.lora_B.weight"] = up
            weights[name] = tensor + 16 / 4 * up @ down
        elif name.startswith(("classifier.", "score.")):
            head = torch.randn(tensor.shape) if tensor.ndim == 2 else torch.zeros(tensor.shape)
            weights[name] = tensors[f"base_model.model.{name}"] = head
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    headed = any(".lora_" not in name for name in tensors)
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if headed else "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 16,
        "target_modules": sorted(targets),
        "base_model_name_or_path": "../base",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    merged.mkdir()
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    (merged / "config.json").write_text((base / "config.json").read_text())
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return folder

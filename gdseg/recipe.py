"""The recipe: the only list of knobs (DESIGN.md, "Five ideas", 4).

Each dataclass is a section of the YAML, each field a key, and its `doc` is what `gdseg recipe show`
and `recipes/custom.yaml` say of it. Reading and writing YAML is in `recipe_yaml.py`. Defaults are
those of official Mask DINO (Apache-2.0) and Mask2Former (MIT) on COCO instances with a ResNet-50.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gdseg.errors import RecipeError

Auto = Literal["auto"]  # in place of a number that follows the data


def key(default: Any, doc: str, **rule: Any) -> Any:
    """A recipe key: default, one line of documentation, and rules.

    Rules: `low`/`high` (inclusive bounds, also of every list item), `above` (exclusive lower bound),
    `choices` (allowed words), `length` (of a list).
    """
    metadata = {"doc": doc, **rule}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def settled(value: int | Auto) -> int:
    """The number of a key that may be auto. Raises RecipeError for the word, which each run first resolves."""
    if value == "auto":
        raise RecipeError("a number is still auto; it is taken from the data when a run starts", hint="name it")
    return value


@dataclass
class Data:
    """Where images and labels are, and which share of the labels is used."""

    root: str = key("shapes", "folder of the data set; 'shapes' is the built-in one, made on first use")
    format: str = key("auto", "auto (looked at), coco (instances), lvis, coco_panoptic, semantic (folders of label maps), ade20k, ade20k_full, cityscapes, mapillary, voc, yolo, labelme, cvat (for images 1.1), label_studio", choices=["auto", "coco", "lvis", "coco_panoptic", "semantic", "ade20k", "ade20k_full", "cityscapes", "mapillary", "voc", "yolo", "labelme", "cvat", "label_studio"])
    train: str | None = key(None, "labels of the training images, relative to root: COCO json (instances, panoptic), json of tasks (label_studio), folder of label maps (yolo: texts, labelme: json files), list of images (voc, yolo) or xml (cvat); null: looked for; none: there are none, which data inspect takes, not training")
    train_images: str | None = key(None, "folder of the training images; null: looked for")
    train_maps: str | None = key(None, "coco_panoptic: folder of the training PNGs; null: looked for")
    val: str | None = key(None, "labels of the validation images, as train; null: looked for; none: train without evaluating")
    val_images: str | None = key(None, "folder of the validation images; null: looked for")
    val_maps: str | None = key(None, "coco_panoptic: folder of the validation PNGs; null: looked for")
    classes: str | None = key(None, "semantic, voc, labelme, label_studio, ade20k_full: file with the classes, one name a line (the first is 0), or a json list of id, name, color; mapillary: its config.json; yolo: data.yaml; null: looked for")
    ignore_label: int = key(255, "semantic, voc: value of pixels that are of no class", low=0)
    unlabelled: list[str] = key([], "folders of unlabelled images, besides the training images outside the split")
    unlabelled_has_labelled: bool = key(True, "labelled images are also used as unlabelled ones, as in the paper")
    label_weights: str = key("none", "instance: what an object counts in the loss: none (1, all alike), or what its annotation says, from 0 to 1, by weight or by score (as pseudo-labels have); 1 where it says nothing", choices=["none", "weight", "score"])
    ratio: float = key(1.0, "share of the training images whose labels are used", above=0.0, high=1.0)
    split: str | None = key(None, "file with the ids of the labelled images (split.json of a run, or one id a line)")
    repeat_threshold: float = key(0.0, "repeat-factor sampling: images of classes rarer than this share are repeated; 0: off", low=0.0)
    workers: int = key(2, "processes that load and augment images", low=0)


@dataclass
class Augment:
    """Geometry shared by both views, then colour for the strong one."""

    mode: str = key("lsj", "geometry: lsj (fit into the canvas times a random factor), rescale (the image's own size times a random factor, crop of the canvas' size; predict with inference.tile), shortest_edge (random shortest edge, crop), fixed (resize to canvas)", choices=["lsj", "rescale", "shortest_edge", "fixed"])
    canvas: list[int] = key([1024, 1024], "height, width of the canvas (lsj, rescale, fixed)", length=2, low=1)
    scale: list[float] = key([0.1, 2.0], "lsj, rescale: range of the scale factor", length=2, above=0.0)
    shortest: list[int] = key([480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800], "shortest_edge: lengths to choose from, pixels", low=1)
    longest: int = key(1333, "shortest_edge: the longest edge is at most this, pixels", low=1)
    crop: list[int] = key([0, 0], "shortest_edge: height, width of a random crop, to which smaller images are padded; 0: none", length=2, low=0)
    flip: float = key(0.5, "probability of a horizontal flip", low=0.0, high=1.0)
    pad_value: int = key(128, "value of the canvas outside the image", low=0)
    weak_colour: bool = key(False, "SSD colour jitter on the weak view too (official Cityscapes and ADE20K)")
    jitter: list[float] = key([0.4, 0.4, 0.4, 0.1], "strong view: brightness, contrast, saturation, hue", length=4, low=0.0)
    jitter_p: float = key(0.8, "strong view: probability of the colour jitter", low=0.0, high=1.0)
    grey_p: float = key(0.2, "strong view: probability of greyscale", low=0.0, high=1.0)
    blur_p: float = key(0.5, "strong view: probability of a Gaussian blur", low=0.0, high=1.0)
    blur_sigma: list[float] = key([0.1, 2.0], "strong view: range of the blur's sigma, pixels", length=2, above=0.0)
    cutout_p: float = key(0.0, "strong view: probability of cut-out", low=0.0, high=1.0)
    cutout_count: int = key(3, "strong view: rectangles cut out", low=1)
    cutout_area: list[float] = key([0.02, 0.1], "strong view: area of a rectangle as a share of the image", length=2, above=0.0, high=1.0)
    copy_paste: float = key(0.0, "instance: share of the labelled images that get objects of another one of the step, in front (arXiv 2012.07177)", low=0.0, high=1.0)
    test_shortest: int = key(800, "evaluation and prediction: shortest edge, pixels (rescale: of an image of the canvas' size, larger ones in proportion); 0: as on disk", low=0)
    test_longest: int = key(1333, "evaluation and prediction, but for rescale: longest edge at most this, pixels", low=1)

    @property
    def test_factor(self) -> float:
        """rescale: what an image's size is multiplied by in evaluation and prediction."""
        return self.test_shortest / min(self.canvas) if self.test_shortest else 1.0


@dataclass
class Backbone:
    """Any timm network."""

    name: str = key("resnet50", "timm name")
    weights: str | None = key(None, "local .safetensors or .pth, or package:NAME for the weights inside an installed package")
    pretrained: bool = key(False, "true: timm downloads its weights")
    norm: str = key("frozen", "batch norm: frozen (statistics and affine fixed) or live", choices=["frozen", "live"])
    freeze_stages: int = key(0, "first stages that are not trained (1: stem, 2: stem and res2, ..)", low=0, high=5)
    drop_path: float = key(0.0, "stochastic depth rate", low=0.0, high=0.99)
    checkpointing: bool = key(False, "gradient checkpointing: less memory, more time")
    channels_last: bool = key(False, "memory layout of the backbone's convolutions; faster for some")
    in_channels: int = key(3, "channels of the images", low=1)
    stride_in_1x1: bool = key(False, "resnet: stride in the first 1x1 convolution of a block (as Caffe and detectron2's MSRA weights) instead of in the 3x3 one")
    pyramid: str = key("simple", "plain ViT: simple (ViTDet) or nearest (official Guided Distillation: 1x1 convolutions, maps repeated to strides 4..32, image resized by nearest pixel to one patch more than fits)", choices=["simple", "nearest"])
    mean: list[float] = key([123.675, 116.28, 103.53], "mean of each channel, in the image's own units")
    std: list[float] = key([58.395, 57.12, 57.375], "standard deviation of each channel", above=0.0)


@dataclass
class PixelDecoder:
    """Multi-scale deformable encoder and FPN (Mask2Former §3.2, Mask DINO §3.1)."""

    channels: int = key(256, "width", low=8, high=8192)
    mask_channels: int = key(256, "width of the mask features", low=1, high=8192)
    layers: int = key(6, "encoder layers", low=0, high=100)
    heads: int = key(8, "attention heads", low=1)
    points: int = key(4, "sampling points a head and level", low=1)
    ffn: int = key(1024, "width of the feed-forward part", low=1)
    inputs: list[str] = key(["res3", "res4", "res5"], "backbone levels that enter the encoder", choices=["res2", "res3", "res4", "res5"])
    extra_levels: int = key(0, "levels beyond stride 32, each half the size", low=0, high=2)
    level_order: str = key("coarse_first", "order of the levels in the token sequence", choices=["coarse_first", "fine_first"])
    extra_positions: str = key("own", "with two extra_levels: each has its own position embedding, or swapped, the other's, as officially", choices=["own", "swapped"])
    dropout: float = key(0.0, "dropout of the encoder layers", low=0.0, high=0.99)


@dataclass
class Decoder:
    """The query decoder: Mask DINO or Mask2Former."""

    kind: str = key("maskdino", "maskdino or mask2former", choices=["maskdino", "mask2former"])
    channels: int = key(256, "width", low=8, high=8192)
    layers: int = key(9, "layers", low=1, high=100)
    heads: int = key(8, "attention heads", low=1)
    points: int = key(4, "maskdino: sampling points a head and level", low=1)
    ffn: int = key(2048, "width of the feed-forward part", low=1)
    queries: int | Auto = key(300, "queries; auto: from the labelled images, 1.5 times the objects that 99 % of them hold at most, at least 100", low=1, high=100000)
    dropout: float = key(0.0, "dropout", low=0.0, high=0.99)
    input_projection: bool = key(False, "a 1x1 convolution of each level even where pixel_decoder.channels equals channels")
    pre_norm: bool = key(False, "mask2former: normalise before each block instead of after")
    two_stage: bool = key(True, "maskdino: queries are selected from the encoder's tokens")
    proposal_size: str = key("order", "maskdino: a token's proposal is 0.05 * 2^i wide: i by the level's order in the sequence, as officially (with fine_first the coarsest level gets the smallest), or by its stride", choices=["order", "stride"])
    token_score: str = key("objects", "maskdino with two_stage and softmax classes: tokens are selected by their best class (objects), or by the best of all outputs, no-object among them, as officially (all)", choices=["objects", "all"])
    initial_prediction: bool = key(True, "maskdino: predict from the queries before the first layer")
    learned_content: bool = key(False, "maskdino: with two_stage, learned query content instead of the selected tokens")
    box_init: str = key("mask_to_box", "maskdino: anchors from the predicted masks: none, mask_to_box (official 'mask2box'), exact ('bitmask')", choices=["none", "mask_to_box", "exact"])
    mask_prior: str = key("none", "maskdino: none (official) or ellipse: each query's mask starts from its box, for objects that look alike and few labels", choices=["none", "ellipse"])
    denoising: str = key("mask", "maskdino: none, box (box and label), mask (box, label and mask)", choices=["none", "box", "mask"])
    denoising_queries: int | Auto = key(100, "maskdino: denoising queries an image; auto: as decoder.queries", low=1)
    denoising_overfull: str = key("sample", "maskdino: an image with more objects than denoising_queries: sample some of them, or skip denoising for the batch, as officially", choices=["sample", "skip"])
    box_noise: float = key(0.4, "maskdino: noise of denoising boxes, as a share of their size", low=0.0)
    label_flip: float = key(0.2, "maskdino: probability that a denoising label is replaced", low=0.0, high=1.0)
    class_prior: float = key(0.0, "focal: probability of each class at the start (RetinaNet, arXiv 1708.02002 §4.1); 0: plain initialisation, as officially", low=0.0, high=0.99)
    class_loss: str = key("focal", "focal (sigmoid, C logits) or softmax (C + 1 logits); mask2former is always softmax", choices=["focal", "softmax"])


@dataclass
class Loss:
    """Weights of the losses and of the matching costs (Mask DINO §4, Mask2Former §4)."""

    class_weight: float = key(4.0, "classification", low=0.0)
    mask_weight: float = key(5.0, "mask cross-entropy at points", low=0.0)
    dice_weight: float = key(5.0, "mask dice at points", low=0.0)
    box_weight: float = key(5.0, "box L1 (maskdino)", low=0.0)
    giou_weight: float = key(2.0, "box GIoU (maskdino)", low=0.0)
    class_cost: float = key(4.0, "matching: classification", low=0.0)
    mask_cost: float = key(5.0, "matching: mask cross-entropy", low=0.0)
    dice_cost: float = key(5.0, "matching: dice", low=0.0)
    box_cost: float = key(5.0, "matching: box L1", low=0.0)
    giou_cost: float = key(2.0, "matching: box GIoU", low=0.0)
    softmax_cost: str = key("focal", "matching, maskdino with softmax classes: class cost focal (of sigmoids, as officially) or probability (as mask2former)", choices=["focal", "probability"])
    no_object: float = key(0.1, "softmax: weight of the no-object class", low=0.0)
    focal_alpha: float = key(0.25, "focal: weight of positives", low=0.0, high=1.0)
    focal_gamma: float = key(2.0, "focal: exponent", low=0.0)
    federated: bool = key(True, "federated data (LVIS, arXiv 1908.03195 §2): classes that nobody looked for in an image, or of which not all objects are marked, count in its class loss where they are matched only; false: they are negatives")
    points: int = key(12544, "points a mask is compared at", low=1)
    oversample: float = key(3.0, "points drawn for each one kept by uncertainty", low=1.0)
    importance: float = key(0.75, "share of points chosen by uncertainty", low=0.0, high=1.0)
    deep_supervision: bool = key(True, "every layer has its loss")
    box_things_only: bool = key(False, "maskdino, panoptic: boxes of stuff have no loss")
    boxes_relative_to: str = key("padded", "target boxes are shares of the padded canvas, where predictions and masks live, or of the image inside it, as officially (the same where images fill the canvas)", choices=["padded", "image"])
    ignore_overlap: float = key(0.5, "an unmatched query with more than this share of its mask in the ignore region is not pushed to no-object", low=0.0, high=1.0)


@dataclass
class Postprocess:
    """From network outputs to instances, panoptic segments or a semantic map."""

    max_detections: int | Auto = key(100, "instances kept an image (with inference.tile, a tile); auto: as decoder.queries", low=1)
    mask_nms: float = key(0.0, "instance: drop a mask that overlaps a better one of its class by more than this IoU (at stride 4); 0: keep all, as officially", low=0.0, high=1.0)
    boxes: str = key("mask", "boxes of instances: mask (tight box of the mask) or head (the box head; maskdino)", choices=["mask", "head"])
    score: str = key("class_mask", "class_mask (class times mean mask probability) or class", choices=["class_mask", "class"])
    softmax_score: str = key("probability", "instance, maskdino with softmax classes: scores are probabilities, or sigmoids of the logits, as officially", choices=["probability", "sigmoid"])
    object_threshold: float = key(0.8, "panoptic: queries scored below this are dropped", low=0.0, high=1.0)
    overlap_threshold: float = key(0.8, "panoptic: a segment that keeps less than this share of its area is dropped", low=0.0, high=1.0)
    overlap_area: str = key("won", "panoptic: the area a segment keeps: all pixels it won, as officially, or those inside its own mask", choices=["won", "inside"])
    temperature: float = key(0.06, "panoptic and semantic with focal classes: softmax temperature of the scores; 0: no softmax", low=0.0)
    semantic_resize: str = key("scores", "semantic: resize to the image's size the class scores (official semantic recipes) or the masks before they are combined (official panoptic recipes)", choices=["scores", "masks"])


@dataclass
class Inference:
    """How evaluation and prediction show an image to the network: whole or in tiles, once or in several views."""

    tile: int = key(0, "side of square tiles, pixels of the image on disk, as large as training images are; a tile is resized as a whole image of its size; 0, and images that fit in one: whole", low=0)
    overlap: int | Auto = key("auto", "pixels that neighbouring tiles share at least; auto: a fifth of the tile", low=1)
    scales: list[float] = key([1.0], "instance, semantic: the image is seen at each of these multiples of its test size", low=0.1, high=10.0)
    flip: bool = key(False, "instance, semantic: and flipped at each of them")

    @property
    def shared(self) -> int:
        """The least overlap of two tiles, in pixels."""
        return self.tile // 5 if self.overlap == "auto" else self.overlap

    @property
    def views(self) -> list[tuple[float, bool]]:
        """(scale, flipped) of each view of an image."""
        return [(scale, flip) for scale in self.scales for flip in ((False, True) if self.flip else (False,))]


@dataclass
class Train:
    """Optimisation and run control, shared by pretrain and distill."""

    steps: int = key(368750, "optimiser steps of pretrain", low=1)
    batch_size: int = key(16, "labelled images a step", low=1)
    accumulate: int = key(1, "the batch is computed in this many parts", low=1)
    lr: float = key(1e-4, "learning rate", above=0.0)
    backbone_lr_factor: float = key(0.1, "backbone's share of the learning rate", low=0.0)
    weight_decay: float = key(0.05, "AdamW weight decay; 0 for norms and embeddings", low=0.0)
    clip_norm: float = key(0.01, "gradients of the whole model are clipped to this norm; 0: off", low=0.0)
    schedule: str = key("step", "step, poly, cosine or constant", choices=["step", "poly", "cosine", "constant"])
    milestones: list[float] = key([0.888889, 0.962961], "step: the rate drops at these shares of all steps", above=0.0, high=1.0)
    gamma: float = key(0.1, "step: factor of a drop", above=0.0, high=1.0)
    power: float = key(0.9, "poly: exponent", above=0.0)
    warmup_steps: int = key(10, "steps of linear warm-up", low=0)
    warmup_factor: float = key(1.0, "share of the rate at step 0", above=0.0, high=1.0)
    precision: str = key("auto", "auto (bf16 on a GPU that has it, fp16 on another, fp32 on a CPU), fp32, bf16, fp16", choices=["auto", "fp32", "bf16", "fp16"])
    ema_decay: float = key(0.0, "pretrain: evaluate and keep an exponential moving average with this decay; 0: off", low=0.0, high=1.0)
    log_every: int = key(20, "steps between log lines", low=1)
    eval_every: int = key(5000, "steps between evaluations; 0: only at the end", low=0)
    save_every: int = key(5000, "steps between checkpoints; 0: only at the end", low=0)
    best: str = key("auto", "metric that chooses the best checkpoint; auto: mask_ap, pq or miou by task", choices=["auto", "mask_ap", "mask_ap50", "box_ap", "box_ap50", "pq", "pq_things", "pq_stuff", "miou"])
    tensorboard: bool = key(False, "also write TensorBoard events (pip install gdseg[tensorboard])")


@dataclass
class Distill:
    """Guided distillation (arXiv 2308.02668 §3)."""

    steps: int = key(368750, "optimiser steps of distill", low=1)
    burn_in_steps: int = key(50000, "steps with the frozen teacher; then it becomes the student's EMA", low=0)
    lr_factor: float = key(1.0, "learning rate as a share of train.lr: less than 1 suits a student that starts from the teacher", above=0.0)
    ema_decay: float = key(0.9996, "decay of the teacher after burn-in", low=0.0, high=1.0)
    ema_ramp: bool = key(False, "the decay rises to ema_decay as 1 - 1 / (steps since burn-in + 1), so that the average forgets its start sooner (arXiv 1703.01780 §3.2)")
    student_init: str = key("backbone", "the student starts from the backbone's weights or from the teacher", choices=["backbone", "teacher"])
    unlabelled_batch_size: int = key(16, "unlabelled images a step", low=1)
    repeat_threshold: float | None = key(None, "labelled images of distill: as data.repeat_threshold; null: the same", low=0.0)
    unlabelled_weight: float = key(2.0, "weight of the unlabelled loss", low=0.0)
    unlabelled_ramp_steps: int = key(0, "the weight of the unlabelled loss rises to unlabelled_weight over these first steps (arXiv 1703.01780 §3.2)", low=0)
    background_weight: float = key(1.0, "unlabelled images: weight of the class loss where there is no pseudo-label; less than 1 where the teacher misses objects, which are then no firm background (after Soft Teacher, arXiv 2106.09018 §3.2)", low=0.0)
    final_steps: int = key(0, "the last steps train on labels alone, which wash out what pseudo-labels got wrong", low=0)
    teacher_flip: bool = key(False, "the teacher also looks at the mirrored image: scores are the mean of both looks, half where the second does not find an object again")
    teacher_scales: list[float] = key([], "the teacher also looks at the image at each of these multiples of its size, as [1.5], with teacher_flip mirrored too; a score is the mean over all looks, one that does not find the object again counts 0: the more looks, the lower class_threshold should be; what only another look finds is left out", low=0.1, high=10.0)
    score: str = key("class", "what the thresholds are compared with: class (score, as in the paper), or class_mask (times the mean mask probability)", choices=["class", "class_mask"])
    thresholds: str = key("fixed", "of each class: fixed (class_threshold), prior (as many pseudo-labels an image as labelled objects, LabelMatch, arXiv 2206.06608 §3.2), or ema (class_threshold in proportion to the mean score, FreeMatch, arXiv 2205.07246 §4.2)", choices=["fixed", "prior", "ema"])
    threshold_rate: float = key(0.01, "prior: most that a threshold moves in a step; ema: share of the newest scores in the mean", low=0.0, high=1.0)
    prior_share: float = key(1.0, "prior: pseudo-labels of a class wanted for each labelled object of it", above=0.0)
    class_threshold: float = key(0.7, "pseudo-label: class score above this", low=0.0, high=1.0)
    mask_threshold: float = key(0.0, "pseudo-label: mean mask probability inside the mask at least this; 0: even an empty mask is kept, as officially", low=0.0, high=1.0)
    min_area: float = key(5.0, "pseudo-label: sum of mask probabilities (of a class's region: pixels) above this, at stride 4", low=0.0)
    mask_nms: float = key(0.0, "drop a pseudo-label whose mask overlaps a better one of its class by more than this IoU; 0: keep duplicates, as officially", low=0.0, high=1.0)
    max_instances: int = key(0, "pseudo-labels kept an image, best first; 0: all", low=0)
    pixel_threshold: float = key(0.5, "pseudo-label: a pixel belongs to the mask above this probability", low=0.0, high=1.0)
    pixel_margin: float = key(0.0, "pixels of a pseudo-mask whose probability is less than this from pixel_threshold, its blurred border, are ignored (after PL-DC, arXiv 2505.11075); 0: none", low=0.0, high=0.5)
    region_threshold: float = key(0.5, "panoptic (stuff) and semantic: a pixel gets the class whose class score times mask probability is largest, if above this; other pixels outside things are ignored", low=0.0, high=1.0)
    mask_stride: int = key(4, "instance: pixels a side of a pseudo-mask's cells: 4 as the network predicts and officially; 2 or 1, interpolated first, for small objects", choices=[1, 2, 4])
    ignore_threshold: float = key(0.0, "instances scored between this and class_threshold become ignore regions; 0: none", low=0.0, high=1.0)
    weighting: str = key("hard", "weight of a pseudo-label: hard (1) or score", choices=["hard", "score"])
    boxes: str = key("mask", "boxes of pseudo-labels: tight box of the mask, or the box head's", choices=["mask", "head"])
    denoising: bool = key(True, "maskdino: denoising queries from pseudo-labels too")
    copy_paste: float = key(0.0, "instance: share of the unlabelled images that get objects of the labelled images of the step, in front (arXiv 2012.07177)", low=0.0, high=1.0)
    paste_pseudo: float = key(0.0, "share of the unlabelled images that get pseudo-objects (semantic, panoptic: segments, ClassMix, arXiv 2007.07936) of another one of the step, in front", low=0.0, high=1.0)
    cutmix: float = key(0.0, "share of the unlabelled images of which a rectangle, half of the image, comes from another one of the step (arXiv 1906.01916 §3.3)", low=0.0, high=1.0)
    feature_backbone: str | None = key(None, "a stronger network of timm, frozen, whose similarities between parts of an image the student learns (S4M, arXiv 2504.05301 §3.2); null: none")
    feature_weights: str | None = key(None, "its weights, as backbone.weights")
    feature_pretrained: bool = key(False, "true: timm downloads its weights")
    feature_weight: float = key(0.0, "weight of that loss; in the unlabelled part times unlabelled_weight and its ramp too", low=0.0)
    alarm_low: float = key(0.1, "warn when pseudo-labels an image fall below this share of the labelled objects an image", low=0.0)
    alarm_high: float = key(5.0, "warn when pseudo-labels an image exceed the labelled objects an image this many times", above=0.0)
    alarm_drift: float = key(0.5, "warn when the classes of pseudo-labels and of labels differ by more than this share of objects (total variation); 1: never", low=0.0, high=1.0)
    alarm_agreement: float = key(0.0, "warn when the student finds less than this share of the pseudo-labels again (F1 at mask IoU 0.5, looked at once a log line); 0: not looked at", low=0.0, high=1.0)
    fallback: str = key("none", "while a warning holds: none, freeze (the teacher stays as it is while the student finds less than alarm_agreement again), raise (the thresholds move 0.05 a log line, at most half-way to 0 or 1, towards fewer pseudo-labels, or more where there are too few; not for drift)", choices=["none", "freeze", "raise"])

    @property
    def looks(self) -> list[tuple[float, bool]]:
        """(scale, flipped) of each look that the teacher takes at an image, first at the image as it is."""
        flips = (False, True) if self.teacher_flip else (False,)
        return [(scale, flip) for scale in (1.0, *self.teacher_scales) for flip in flips]


@dataclass
class Recipe:
    """A whole experiment. Sections map to the dataclasses above."""

    task: str = key("instance", "instance, panoptic or semantic", choices=["instance", "panoptic", "semantic"])
    seed: int = key(0, "seed of everything random", low=0, high=2**31 - 1)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    backbone: Backbone = field(default_factory=Backbone)
    pixel_decoder: PixelDecoder = field(default_factory=PixelDecoder)
    decoder: Decoder = field(default_factory=Decoder)
    loss: Loss = field(default_factory=Loss)
    postprocess: Postprocess = field(default_factory=Postprocess)
    inference: Inference = field(default_factory=Inference)
    train: Train = field(default_factory=Train)
    distill: Distill = field(default_factory=Distill)

    @property
    def softmax_classes(self) -> bool:
        """Whether class scores are a softmax over C + 1 logits (else C sigmoids)."""
        return self.decoder.kind == "mask2former" or self.decoder.class_loss == "softmax"

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint."""
        main = {"instance": "mask_ap", "panoptic": "pq", "semantic": "miou"}
        return main[self.task] if self.train.best == "auto" else self.train.best

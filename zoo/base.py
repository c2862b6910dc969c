"""FusionModule: what all methods share, so that a method's file holds its architecture and nothing else.

The base owns the one step for training, validation and test, the metrics, the optimiser and the logging. A method writes
``forward`` and, if its paper has an extra term, ``loss``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import lightning as L
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAUROC,
    MultilabelConfusionMatrix,
)
from torchmetrics.utilities.data import dim_zero_cat

from datamodules.batch import IGNORED, Batch, Task
from datamodules.emotion import Unit
from datamodules.features.transformer import HiddenStates
from zoo.nn.pretrained import Encoder, PretrainedEncoder

Family = Literal["single", "early", "late", "model-level"]


class Output(NamedTuple):
    """What ``forward`` returns. For dialogues every shape has an axis N after B.

    Attributes:
        logits: (B, C).
        fused: The vector before the classifier, (B, D), or None.
        attention: Named maps, or None unless they were asked for; distributions sum to one over their last axis, and are zero
            where masked.
    """

    logits: Tensor
    fused: Tensor | None = None
    attention: dict[str, Tensor] | None = None


class Variant(NamedTuple):
    """A method with named changes to its constructor's defaults: one row of an ablation table.

    Attributes:
        method: The row's method; a paper's table may hold rows of another, such as one modality alone.
        options: Changes to its defaults.
        reported: The paper's figures for the row in percent, such as ``{"UAR": 74.2}``; empty where it gives none.
        audio: The row's own audio feature, where a paper compares features; empty for that of the suite.
        derived: Whether ``reported`` isn't printed but follows from what is; the method's file says how.
    """

    method: str
    options: Mapping[str, object]
    reported: Mapping[str, float] = MappingProxyType({})
    audio: str = ""
    derived: bool = False


@dataclass(frozen=True)
class Training:
    """How a method is trained. In the controlled track all methods get the same.

    Attributes:
        max_epochs: Epochs at the most.
        patience: Epochs without a better validation score before training stops.
        batch_size: Utterances per batch. A dialogue method gets as many dialogues as hold that many on average; in the published
            track it counts dialogues.
        lr: Adam's learning rate.
        weight_decay: Decoupled weight decay (AdamW); 0 is Adam.
        class_weights: ``balanced`` weighs the loss by inverse class frequency in training, and in a multi-label task a class's
            positives by negatives / positives; ``none`` doesn't.
        grad_clip: Largest gradient norm; 0 for no limit.
    """

    max_epochs: Annotated[int, Field(ge=1)] = 40
    patience: Annotated[int, Field(ge=1)] = 8
    batch_size: Annotated[int, Field(ge=1)] = 32
    lr: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    class_weights: Literal["balanced", "none"] = "balanced"
    grad_clip: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True)
class Published:
    """What a method's paper used: the ``published`` track.

    Attributes:
        audio: Audio feature, as `datamodules.features.parse_feature` reads it.
        text: Text feature.
        training: Hyper-parameters.
        options: Changes to the constructor's defaults that belong to these features and hyper-parameters; a suite's own
            options come after them.
    """

    audio: str
    text: str
    training: Training = field(default_factory=Training)
    options: Mapping[str, object] = field(default_factory=dict)


class UAR(MulticlassConfusionMatrix):
    """Unweighted average recall: the mean of the recalls of the classes that occur.

    torchmetrics' macro recall also counts, as zero, a class that is predicted but doesn't occur.
    """

    def compute(self) -> Tensor:
        """The score, a scalar."""
        counts = super().compute()
        support = counts.sum(1)
        return torch.mean(counts.diagonal()[support > 0] / support[support > 0])


def weighted_accuracies(counts: Tensor) -> Tensor:
    """Every class's weighted accuracy as papers on CMU-MOSEI have it, (TPR + TNR) / 2: the binary task's UAR.

    Args:
        counts: (C, 2, 2), rows the truth, columns the prediction, as `MultilabelConfusionMatrix` has it.

    Returns:
        (C,); TNR alone for a class without positives, TPR alone for one without negatives.
    """
    return torch.nanmean(counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-1), dim=-1)


def weighted_f1s(counts: Tensor) -> Tensor:
    """Every class's F1 of its positives and F1 of its negatives, weighted by their numbers: (C, 2, 2) -> (C,)."""
    truth, guesses = counts.sum(-1), counts.sum(-2)  # (C, 2) each
    f1 = 2 * counts.diagonal(dim1=-2, dim2=-1) / (truth + guesses).clamp(min=1)
    return (f1 * truth).sum(-1) / truth.sum(-1)


class MeanWeightedAccuracy(MultilabelConfusionMatrix):
    """Mean over the classes of `weighted_accuracies`."""

    def compute(self) -> Tensor:
        """The score, a scalar."""
        return weighted_accuracies(super().compute()).mean()


class MeanWeightedF1(MultilabelConfusionMatrix):
    """Mean over the classes of `weighted_f1s`."""

    def compute(self) -> Tensor:
        """The score, a scalar."""
        return weighted_f1s(super().compute()).mean()


class ClassROCAUC(MultilabelAUROC):
    """Area under every class's ROC curve; NaN for a class without positives or without negatives, where torchmetrics has 0."""

    def __init__(self, num_labels: int) -> None:
        """Exact, for ``num_labels`` classes."""
        super().__init__(num_labels, average="none")

    def compute(self) -> Tensor:
        """The areas, (C,)."""
        truth = dim_zero_cat(self.target)  # (n, C)
        areas: Tensor = super().compute()
        return areas.masked_fill(truth.amin(0) == truth.amax(0), torch.nan)


class MeanROCAUC(ClassROCAUC):
    """Mean over the classes that have an area."""

    def compute(self) -> Tensor:
        """The score, a scalar; NaN if no class has one."""
        return super().compute().nanmean()


def score_metrics(num_classes: int, task: Task = "multiclass") -> MetricCollection:
    """The metrics of every split, under the field's names.

    WAR is accuracy, UAR is macro recall, ECE is the expected calibration error over 15 equal bins of confidence. Of a multi-label
    task, means over the classes of binary metrics, at the threshold 0.5.
    """
    if task == "multilabel":
        return MetricCollection(
            {
                "mean_weighted_accuracy": MeanWeightedAccuracy(num_classes),
                "mean_weighted_f1": MeanWeightedF1(num_classes),
                "mean_roc_auc": MeanROCAUC(num_classes),
            }
        )
    return MetricCollection(
        {
            "war": MulticlassAccuracy(num_classes, average="micro"),
            "uar": UAR(num_classes),
            "macro_f1": MulticlassF1Score(num_classes, average="macro"),
            "weighted_f1": MulticlassF1Score(num_classes, average="weighted"),
            "ece": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1"),
        }
    )


class FusionModule(L.LightningModule, ABC):
    """Base of every method.

    A method declares what it is in the class attributes and builds itself in a constructor whose first three parameters are
    ``audio_dim``, ``text_dim`` and ``num_classes``; all others are options with the paper's values as defaults.

    Attributes:
        family: Where fusion happens; ``single`` for one modality.
        unit: What one item of a batch is.
        modalities: What the method reads.
        tasks: What it can be trained for; a method whose loss needs one label per utterance leaves ``multilabel`` out.
        paper: Citation.
        published: The paper's features and hyper-parameters, or None where there is no paper.
        ablations: The paper's ablation table, row by row in its order.
        task: Set by `use_task`.
        training_options: Set by the runner before training.
        caveats: What a reader of this model's results must know: set by a constructor whose options leave a part of the paper out.
        pretrained: Encoders that are trained with the method, by modality, ``audio`` or ``text``; set by the runner, else empty.
    """

    family: ClassVar[Family]
    unit: ClassVar[Unit] = "utterance"
    modalities: ClassVar[tuple[str, ...]] = ("audio", "text")
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel")
    paper: ClassVar[str]
    published: ClassVar[Published | None] = None
    ablations: ClassVar[Mapping[str, Variant]] = {}
    caveats: tuple[str, ...] = ()

    def __init__(self, num_classes: int) -> None:
        """Make the metrics for ``num_classes`` classes; the method's constructor builds the layers."""
        super().__init__()
        self.num_classes = num_classes
        self.training_options = Training()
        self.pretrained = nn.ModuleDict()
        self.use_task("multiclass")
        self.register_buffer("class_weight", None, persistent=False)
        self.test_probabilities: dict[str, Tensor] = {}

    def use_task(self, task: Task) -> None:
        """Train and score for ``task``; logits stay (B, C), and of a multi-label task each is a class's own."""
        if task not in self.tasks:
            raise ValueError(f"{type(self).__name__} can't be trained for a {task} task, only {', '.join(self.tasks)}")
        self.task: Task = task
        metrics = score_metrics(self.num_classes, task)
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        cheap = "mean_weighted_accuracy" if task == "multilabel" else "uar"
        self.train_metrics = MetricCollection({cheap: metrics[cheap].clone()}, prefix="train/")
        confusion = MultilabelConfusionMatrix if task == "multilabel" else MulticlassConfusionMatrix
        self.confusion = confusion(self.num_classes)

    @abstractmethod
    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Predict a batch.

        Args:
            batch: Shapes as in `Batch`.
            maps: Also return the attention maps.

        Returns:
            Logits (B, C), and for dialogues (B, N, C).
        """

    def encode(self, batch: Batch) -> Batch:
        """Replace token ids and samples by the states of the encoders in ``pretrained``; what `forward` and `loss` are given."""
        for modality, encoder in self.pretrained.items():
            states, mask = encoder(getattr(batch, modality), getattr(batch, f"{modality}_mask"))
            batch = batch._replace(**{modality: states, f"{modality}_mask": mask})
        return batch

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy over labelled utterances, binary per class in a multi-label task; a method with an extra term adds it."""
        # In float32: a half-precision log-softmax loses the small probabilities.
        logits, weight = output.logits.float().flatten(0, -2), cast("Tensor | None", self.class_weight)
        labels, labelled = self._labels(batch)
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(logits[labelled], labels[labelled], pos_weight=weight)
        return F.cross_entropy(logits, labels, weight=weight, ignore_index=IGNORED)

    def _labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Labels with all turns in one row, (B N,) or (B N, C), and which of them count, (B N,) bool."""
        if self.task == "multilabel":
            labels = batch.label.flatten(0, -2)
            return labels, (labels != IGNORED).all(-1)
        labels = batch.label.flatten()
        return labels, labels != IGNORED

    def on_fit_start(self) -> None:
        """Take the class weights from the training split."""
        if self.training_options.class_weights == "balanced":
            counts = self.trainer.datamodule.class_counts.float().clamp(min=1)
            balanced = counts[0] / counts[1] if self.task == "multilabel" else counts.sum() / (len(counts) * counts)
            self.class_weight = balanced.to(self.device)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch."""
        return self._step(batch, "train", self.train_metrics)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Score one batch of the validation split."""
        self._step(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, _: int) -> None:
        """Score one batch of the test split and keep its probabilities in ``test_probabilities``."""
        self._step(batch, "test", self.test_metrics)

    def _step(self, batch: Batch, split: str, metrics: MetricCollection) -> Tensor:
        batch = self.encode(batch)
        output = self(batch)
        loss = self.loss(output, batch)
        labels, labelled = self._labels(batch)
        logits = output.logits.detach().float().flatten(0, -2)[labelled]  # (labelled, C)
        probabilities = logits.sigmoid() if self.task == "multilabel" else logits.softmax(-1)
        labels = labels[labelled].long()
        count = len(labels)
        if split != "train" and not probabilities.isfinite().all():
            raise FloatingPointError(
                f"training diverged: the {split} probabilities of epoch {self.current_epoch} are not finite; lower lr"
            )
        metrics.update(probabilities, labels)
        self.log(f"{split}/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=count)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=count)
        if split != "train":
            self.confusion.update(probabilities, labels)
        if split == "test":
            real = labelled if batch.turn_mask is None else labelled[batch.turn_mask.flatten()]
            ids = [name for name, kept in zip(batch.utterance_id, real.tolist(), strict=True) if kept]
            self.test_probabilities.update(zip(ids, probabilities.cpu(), strict=True))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start the confusion matrix anew."""
        self.confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Forget earlier predictions."""
        self.test_probabilities.clear()
        self.confusion.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over everything trainable; each encoder in ``pretrained`` is a group with a learning rate of its own."""
        options = self.training_options
        own = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("pretrained.")]
        encoders = cast("list[PretrainedEncoder]", list(self.pretrained.values()))
        groups: list[dict[str, Any]] = [
            {"params": own},
            *({"params": [p for p in e.parameters() if p.requires_grad], "lr": e.settings.lr} for e in encoders),
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr, weight_decay=options.weight_decay)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Limit the gradient's norm."""
        if self.training_options.grad_clip:
            self.clip_gradients(optimizer, self.training_options.grad_clip, "norm")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the task, how to load the encoders in ``pretrained``, and only those of their weights that are trained."""
        checkpoint["task"] = self.task
        encoders = cast("dict[str, PretrainedEncoder]", dict(self.pretrained.items()))
        checkpoint["pretrained"] = {name: (asdict(e.feature), asdict(e.settings)) for name, e in encoders.items()}
        for name, parameter in self.pretrained.named_parameters(prefix="pretrained"):
            if not parameter.requires_grad:
                del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the encoders that aren't there yet, and take what is frozen in them from their own checkpoints."""
        if checkpoint.get("task", "multiclass") != self.task:
            self.use_task(checkpoint["task"])
        for modality, (feature, settings) in checkpoint.get("pretrained", {}).items():
            if modality not in self.pretrained:
                self.pretrained[modality] = PretrainedEncoder(HiddenStates(**feature), Encoder(**settings))
        for name, value in self.pretrained.state_dict(prefix="pretrained.").items():
            checkpoint["state_dict"].setdefault(name, value)

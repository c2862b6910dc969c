"""Experiment tracking by Lightning's own loggers: where learning curves and confusion matrices go besides the result."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure

from benchmarks.spec import RunSpec

PROJECT = "fusion-zoo"
"""The project of Weights & Biases, or experiment of MLflow, that all runs belong to."""


@contextmanager
def open_loggers(names: Sequence[str], folder: Path, spec: RunSpec) -> Iterator[list[Logger]]:
    """The named loggers of one run; at the end, they are told how it went.

    TensorBoard and CSV write into the run's folder. W&B and MLflow write where their own environment variables say, W&B offline
    (``WANDB_MODE``) beside the runs; there a run is found by its id and its spec.

    Args:
        names: Of `benchmarks.spec.LOGGERS`.
        folder: Where the run is made.
        spec: The run.
    """
    loggers = [_open(name, folder, spec) for name in names]
    status = "failed"
    try:
        yield loggers
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                # Lightning leaves the run open, and the next run of this process would go on in it.
                logger.experiment.finish(exit_code=0 if status == "success" else 1)


def _open(name: str, folder: Path, spec: RunSpec) -> Logger:
    if name == "tensorboard":
        return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    if name == "csv":
        return CSVLogger(folder, name="csv", version="")
    logger: Logger
    # Not into the folder: it gets another name at the end, while their services are still reading from it.
    if name == "wandb":
        logger = WandbLogger(name=spec.run_id, project=PROJECT, group=spec.method, save_dir=folder.parent)
    else:
        logger = MLFlowLogger(PROJECT, run_name=spec.run_id, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    logger.log_hyperparams(spec.model_dump(mode="json"))
    return logger


def log_figure(loggers: Sequence[Logger], name: str, figure: Figure) -> None:
    """Give a figure to the loggers that keep pictures; CSV has no place for one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure)
        elif isinstance(logger, WandbLogger):
            from wandb import Image

            logger.log_image(name, [Image(figure)])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_figure(logger.run_id, figure, f"{name.replace('/', '-')}.png")

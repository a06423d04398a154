"""Several GPUs of one machine, or several machines, that train one network together."""

import contextlib
import functools
import math
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf


def is_chief() -> bool:
    """Tell by `TF_CONFIG` whether this machine is to write files; one that is alone is."""
    place = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    jobs = place.cluster_spec().jobs
    return not jobs or place.task_type == "chief" or (place.task_id == 0 and "chief" not in jobs)


def _are_several() -> bool:
    return bool(tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().jobs)


@functools.cache
def join() -> tf.distribute.Strategy:
    """Join the machines of `TF_CONFIG`, which only works before TensorFlow computes anything, or the GPUs."""
    if _are_several():
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


class SharedModel(keras.Model):
    """A network that is on all devices."""

    def compile(self, optimizer: keras.Optimizer, **options: object) -> None:
        config, self.options = optimizer.get_config(), options
        if config["clipnorm"]:
            config["clipnorm"] /= join().num_replicas_in_sync  # each device clips its part of the gradients
        with join().scope():
            super().compile(type(optimizer).from_config(config), **options)
            self.optimizer.build(self.trainable_variables)  # a step on a device can't make variables

    def fit(self, x: tf.data.Dataset, validation_data: tf.data.Dataset, **options: object) -> None:
        devices = join().num_replicas_in_sync
        # They need equal parts of all batches, so a few validation images count twice.
        sizes = [len(images) for images, _ in validation_data]
        parts = math.ceil(len(sizes) / devices)
        size = devices * math.ceil(sum(sizes) / (devices * parts))
        validation_data = validation_data.unbatch().repeat().batch(size).take(parts)
        with join().scope():
            super().fit(x, validation_data=validation_data, **options)

    def compute_metrics(self, *args: object, **options: object) -> dict[str, tf.Tensor]:
        metrics = super().compute_metrics(*args, **options)
        # Keras averages float32 (1,) over several machines, but float32 () over devices.
        return {name: value[tf.newaxis] for name, value in metrics.items()} if _are_several() else metrics


def _open_copy(run: Path, scratch: Path) -> Path:
    """Check that all machines see the same run; give the chief its folder and the others a copy of it."""

    def meet(number: int) -> float:
        """Wait until all machines are here; give all of them the mean of their numbers."""
        return float(join().reduce(tf.distribute.ReduceOp.MEAN, tf.constant(number, tf.float64), axis=None))

    meet(0)  # now the chief has opened it
    state = run / "backup" / "training_metadata.json"
    seen = zlib.crc32(f"{run.name} {run.exists()} {state.exists() and state.read_text()}".encode())
    folder = run if is_chief() or not run.exists() else shutil.copytree(run, scratch / "run")
    if meet(seen) != seen or not run.exists():
        raise ConnectionError(
            f"The machines don't see the same files in {run}. Set WORK to a folder that they share, and give "
            "all of them the same parameters and images."
        )
    return folder


@contextlib.contextmanager
def share(model: keras.Model, run: Path, batch_size: int) -> Iterator[tuple[keras.Model, Path]]:
    """Share training among all devices; yields the network and the folder to use. `model` gets the weights.

    Raises:
        ConnectionError: If a machine is lost, or does not see the chief's folder of the run.
        ValueError: If the devices can't share a batch equally.
    """
    devices = join().num_replicas_in_sync
    if batch_size % devices:
        raise ValueError(f"{devices} devices share each batch. Set BATCH_SIZE to a multiple of that.")
    if devices == 1:
        yield model, run
    else:
        with join().scope():
            copy = keras.models.clone_model(keras.Model(model.input, model.output))  # metrics can't be cloned
        for layer in copy.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = _are_several()  # over the whole batch
        # Made within their scope, it would average a batch over machines, labels too, to build itself.
        with contextlib.nullcontext() if _are_several() else join().scope():
            learner = SharedModel(copy.input, copy.output)
        learner.set_weights(model.get_weights())
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                yield learner, _open_copy(run, Path(scratch)) if _are_several() else run
        except tf.errors.OpError as error:
            if not _are_several():
                raise
            raise ConnectionError(
                "A machine was lost or has failed. Start the notebook on all of them again, with the same "
                "parameters: they go on after the last epoch."
            ) from error
        model.set_weights(learner.get_weights())
        model.compile(**learner.options)
    model._initial_epoch = None  # else its next `fit` skips the epochs that BackupAndRestore has skipped

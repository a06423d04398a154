"""The networks that the notebook's CNN + BiLSTM is compared with, and what all of them share."""

import keras
import numpy as np
from keras import layers

ATTENTION_DROPOUT = 0.1


def sized(count: int, size: float) -> int:
    """Multiply a number of channels or units by `size`, to a multiple of 8."""
    return max(8, 8 * round(size * count / 8))


def normalised(layer: layers.Layer, x: keras.KerasTensor) -> keras.KerasTensor:
    """Apply a layer without a bias, then batch normalisation and ReLU."""
    x = layers.BatchNormalization(momentum=0.9, name=f"{layer.name}_norm")(layer(x))
    return layers.ReLU(name=f"{layer.name}_relu")(x)


def dilated(x: keras.KerasTensor) -> keras.KerasTensor:
    """Add three dilated convolutions along the frames, each with a residual connection."""
    for dilation in (1, 2, 4):
        options = {"padding": "same", "use_bias": False, "name": f"along_frames_{dilation}"}
        x = layers.Add()([x, normalised(layers.Conv1D(x.shape[-1], 3, dilation_rate=dilation, **options), x)])
    return x


def attention(x: keras.KerasTensor) -> keras.KerasTensor:
    """Add two layers of a Transformer encoder (Vaswani et al., 2017).

    Layers are normalised first (Xiong et al., 2020), which needs no long warm-up.
    """
    (frames, units), heads = x.shape[1:], 4
    angles = np.arange(frames)[:, np.newaxis] * 10_000.0 ** (-np.arange(0, units, 2) / units)
    x = x + np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)  # the positions
    for number in range(2):
        y = layers.LayerNormalization(name=f"before_attention_{number}")(x)
        look = layers.MultiHeadAttention(
            heads, units // heads, dropout=ATTENTION_DROPOUT, name=f"attention_{number}"
        )
        x = layers.Add()([x, layers.Dropout(ATTENTION_DROPOUT)(look(y, y))])
        y = layers.LayerNormalization(name=f"before_dense_{number}")(x)
        y = layers.Dense(2 * units, activation="relu", name=f"wide_{number}")(y)
        y = layers.Dense(units, name=f"back_{number}")(y)
        x = layers.Add()([x, layers.Dropout(ATTENTION_DROPOUT)(y)])
    return layers.LayerNormalization(name="after")(x)


def pretrained(image: keras.KerasTensor, frames: int) -> keras.KerasTensor:
    """Map an image to strokes with the first six blocks of MobileNetV2 (Sandler et al., 2018).

    Args:
        image: float32 (batch, width, height, 1 or 3).
        frames: A fourth of the width, rounded down.

    Returns:
        float32 (batch, frames, height / 8, 192).

    Raises:
        ConnectionError: If its weights, which were learnt from ImageNet, can't be downloaded.
    """
    x = layers.ZeroPadding2D(((0, -image.shape[1] % 8), (0, 0)))(image)
    x = layers.Permute((2, 1, 3))(x)  # as photographs stand
    x = x if image.shape[3] == 3 else layers.Concatenate()([x, x, x])
    try:
        whole = keras.applications.MobileNetV2((None, None, 3), include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises nothing narrower
        raise ConnectionError(
            f"The weights of MobileNetV2 can't be downloaded ({error}). Check your internet "
            "connection, or choose another ARCHITECTURE."
        ) from error
    blocks = keras.Model(whole.input, whole.get_layer("block_6_expand_relu").output, name="backbone")
    x = layers.Permute((2, 1, 3))(blocks(x / 2))  # (batch, width / 8, height / 8, 192)
    x = layers.UpSampling2D((2, 1))(x)  # there is one frame for 8 columns
    return layers.Cropping2D(((0, x.shape[1] - frames), (0, 0)))(x)


READERS = {"cnn": dilated, "attention": attention, "pretrained": lambda columns: columns}


def read_columns(architecture: str, columns: keras.KerasTensor) -> keras.KerasTensor:
    """Let columns see each other in another way than the BiLSTM does: float32 (batch, frames, units).

    Raises:
        ValueError: If there is no such architecture.
    """
    if architecture not in READERS:
        names = ", ".join(["bilstm", *READERS])
        raise ValueError(f"ARCHITECTURE is {architecture!r}; set it to one of {names}.")
    return READERS[architecture](columns)

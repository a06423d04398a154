"""One of the machines that train a network together: python machine.py IMAGES RUN EPOCHS, with TF_CONFIG.

It trains without what differs from one machine to several: dropout, augmentation, and Muon, which clips
gradients on each machine; and so slowly that the last digits, in which sums of another order differ, stay the
last ones.
"""

import json
import sys
from pathlib import Path

import keras
from runs import definitions

images, run = map(Path, sys.argv[1:3])
study = definitions()
study.DROPOUT = study.AUGMENTATION = 0
keras.optimizers.Muon = lambda schedule, **_: keras.optimizers.SGD(schedule)
keras.utils.set_random_seed(1)
table, _, shape = study.scan(images, "(.+)")
numbers = {character: number for number, character in enumerate(study.ALPHABET, start=1)}
data = study.read_images(table, numbers, shape, 5)
model = study.build_model("bilstm", shape, len(numbers) + 1)
history = study.train(model, data, data, int(sys.argv[3]), run, rate=5e-5)
after = model.evaluate(study.make_batches(data, False), verbose=0, return_dict=True)
print(json.dumps(history[["epoch", "loss", "val_loss"]].to_dict("list") | {"after": after["loss"]}))

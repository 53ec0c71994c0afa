"""Runs an exported module with numpy and onnxruntime, without torch and without this package.

    reencoder-apply export MODULE --out DIR --format onnx
    python examples/run_onnx.py DIR/module.onnx IN.npy OUT.npy [--seed 0]

IN.npy holds raw latents (C, T) or (B, C, T) of the autoencoder that the file names. For a module with a condition,
--seed draws a random one; the default is zero.
"""

import argparse
import json

import numpy as np
import onnxruntime


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("latents")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args(arguments)

    session = onnxruntime.InferenceSession(options.module, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    print(json.loads(metadata["reencoder.task"])["name"], json.loads(metadata["reencoder.spec"]))

    latents = np.load(options.latents, allow_pickle=False).astype(np.float32)
    batch = latents if latents.ndim == 3 else latents[None]
    inputs = {"latents": batch}
    for value in session.get_inputs()[1:]:  # the condition
        noise = np.random.default_rng(options.seed).standard_normal((len(batch), value.shape[1]), dtype=np.float32)
        inputs[value.name] = np.zeros_like(noise) if options.seed is None else noise
    output = np.asarray(session.run(None, inputs)[0])
    np.save(options.out, output if latents.ndim == 3 else output[0])


if __name__ == "__main__":
    main()

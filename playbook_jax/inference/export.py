"""An exported model: files that load without this code and give the same predictions.

What is exported is `workload.apply` in evaluation, from a batch's raw features (uint8 images, say) to the
model's outputs, for any batch size. Two formats: StableHLO, which loads with jax alone, and a TensorFlow
SavedModel (playbook, "Setting up periodic evaluations": artifacts like SavedModels make it easy to do
ad-hoc model inspection after evaluation jobs finish).

    model.stablehlo   the program; the parameters are arguments, so it stays small
    variables.npz     the parameters and batch statistics, one array each
    saved_model/      the SavedModel, with its own copy of the parameters
    signature.json    shapes, types, where the model comes from, the lines that load it; written last
    README.txt        the same for people
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from etils import epath

from playbook_jax import (
    checkpoints,
    config as config_lib,
    trial as trial_lib,
    workload as workload_lib,
)
from playbook_jax.errors import UsageError, unknown
from playbook_jax.input import pipeline
from playbook_jax.training import train_step

PLATFORMS = ("cpu", "cuda", "tpu")
# For each format its files and the lines that load it, run where the files are.
_FORMATS = {
    "stablehlo": (
        ("model.stablehlo", "variables.npz"),
        (
            "import jax.export, numpy as np",
            'model = jax.export.deserialize(open("model.stablehlo", "rb").read())',
            'outputs = model.call(dict(np.load("variables.npz")), features)',
        ),
    ),
    "savedmodel": (
        ("saved_model",),
        (
            "import tensorflow as tf",
            'model = tf.saved_model.load("saved_model")',
            "outputs = model.predict(features)",
        ),
    ),
}
FORMATS = tuple(_FORMATS)
_BATCH = "batch"  # the name of the dimension that is left open
_CHECKED_EXAMPLES = 64  # on which the exported model is compared with the original


@dataclasses.dataclass(frozen=True)
class Model:
    """A workload's model at one checkpoint, as a function of plain dictionaries of arrays.

    Attributes:
      name: the workload's.
      variables: "params/Dense_0/kernel" → array. Types that NumPy's files do not know (bfloat16) are
        widened to float32 here and narrowed again in `call`: no bit is lost.
      inputs: the features that the outputs depend on, without the batch dimension.
      call: (variables, {feature: array [batch, …]}) → {output: array}. A workload whose outputs are
        one array has the one output "outputs".
    """

    name: str
    variables: dict[str, np.ndarray]
    inputs: dict[str, jax.ShapeDtypeStruct]
    call: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

    def specification(self, batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns shapes and types of the arguments of `call`; `batch` may be symbolic."""
        variables = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in self.variables.items()}
        return variables, _batched(self.inputs, batch)


def make_model(
    workload: workload_lib.Workload,
    variables: Mapping[str, Any],
    examples: Mapping[str, np.ndarray],
    hparams: Mapping[str, Any],
) -> Model:
    """Returns a workload's model with these variables.

    Args:
      workload: the model.
      variables: `params` and `batch_stats`, NumPy arrays.
      examples: of some split, for the features' names, shapes and types.
      hparams: the run's; constants from here on.

    Raises:
      UsageError: the model's outputs do not depend on its input.
    """
    paths, structure = jax.tree.flatten_with_path(dict(variables))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    types = [np.asarray(x).dtype for _, x in paths]
    features = {
        name: jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype))
        for name, x in examples.items()
    }

    def call(variables: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        leaves = [jnp.asarray(variables[n], t) for n, t in zip(names, types, strict=True)]
        size = next(iter(batch.values())).shape[0]
        # What the outputs do not depend on, such as labels, may still be looked at on the way.
        unused = {
            name: jnp.zeros((size, *x.shape), x.dtype)
            for name, x in features.items()
            if name not in batch
        }
        tree = jax.tree.unflatten(structure, leaves)
        outputs, _ = workload.apply(tree, {**unused, **batch}, hparams, {}, train=False)
        return _named(outputs)

    stored = {name: _storable(x) for name, (_, x) in zip(names, paths, strict=True)}
    name = type(workload).__module__.rpartition(".")[2]
    model = Model(name, stored, features, call)
    return dataclasses.replace(model, inputs=_used(model))


def _used(model: Model) -> dict[str, Any]:
    """Returns those of the model's inputs on which the outputs depend."""
    exported = jax.export.export(jax.jit(model.call))(*model.specification(1))
    names = sorted(model.inputs)  # as jax orders a dictionary; the variables come before
    kept = {i - len(model.variables) for i in exported.module_kept_var_idx}
    used = {name: model.inputs[name] for i, name in enumerate(names) if i in kept}
    if not used:
        raise UsageError(
            f"the outputs of {model.name} depend on none of its features "
            f"({', '.join(names)}): there is nothing to export"
        )
    return used


def _named(outputs: Any) -> dict[str, Any]:
    """Returns a tree of outputs as a plain dictionary, which needs no class of ours to be loaded."""
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/") or "outputs": x
        for path, x in jax.tree.flatten_with_path(outputs)[0]
    }
    return dict(sorted(named.items()))


def _storable(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def _batched(features: Mapping[str, Any], batch: Any) -> dict[str, Any]:
    return {k: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype) for k, x in features.items()}


def to_stablehlo(model: Model, platforms: Sequence[str] = PLATFORMS) -> jax.export.Exported:
    """Returns the model as StableHLO for any batch size.

    Raises:
      UsageError: it does something that depends on the batch size, or that a platform lacks.
    """
    (batch,) = jax.export.symbolic_shape(_BATCH)
    try:
        return jax.export.export(jax.jit(model.call), platforms=platforms)(
            *model.specification(batch)
        )
    except Exception as error:  # jax has no one class for this; the model has run at batch size 1
        first_line = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{model.name} cannot be exported for every batch size on {', '.join(platforms)} "
            f"({type(error).__name__}: {first_line}); use sizes that follow from the input's "
            "shape, and --platforms for the ones you need"
        ) from error


def write_saved_model(model: Model, path: epath.PathLike, platforms: Sequence[str]) -> Any:
    """Writes the model as a SavedModel for any batch size; returns its function, for a check.

    `predict` takes a dictionary of features and returns one of outputs; the signature
    `serving_default` does the same for servers.
    """
    from jax.experimental import jax2tf

    tf = pipeline.import_tensorflow()
    call = jax2tf.convert(
        model.call,
        polymorphic_shapes=[None, dict.fromkeys(model.inputs, f"({_BATCH}, ...)")],
        with_gradient=False,
        native_serialization_platforms=platforms,
    )
    signature = {
        name: tf.TensorSpec((None, *x.shape), tf.as_dtype(x.dtype), name=name)
        for name, x in model.inputs.items()
    }
    module = tf.Module()
    module.model_variables = {
        name: tf.Variable(x, trainable=False, name=name) for name, x in model.variables.items()
    }
    module.predict = tf.function(
        lambda features: call(module.model_variables, features),
        input_signature=[signature],
        autograph=False,
    )
    serve = tf.function(lambda **features: module.predict(features), autograph=False)
    signatures = {"serving_default": serve.get_concrete_function(**signature)}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return lambda features: jax.tree.map(np.asarray, module.predict(features))


def available_formats() -> tuple[str, ...]:
    """Returns the formats that can be written here: a SavedModel needs TensorFlow."""
    return FORMATS if importlib.util.find_spec("tensorflow") else FORMATS[:1]


def export(
    directory: epath.PathLike,
    step: int | str,
    *,
    polyak: bool = False,
    formats: Sequence[str] = FORMATS,
    platforms: Sequence[str] = PLATFORMS,
    output: epath.PathLike | None = None,
) -> dict[str, Any]:
    """Exports a checkpoint of a trial.

    Args:
      directory: the trial directory.
      step: a number of completed updates, "best" or "latest".
      polyak: whether to take the averaged parameters.
      formats: among FORMATS.
      platforms: among PLATFORMS; where the exported model is to run.
      output: where to write; `exported/STEP` in the trial directory when None.

    Returns:
      The contents of `signature.json`, and `directory`, where it lies.

    Raises:
      UsageError: there is no such checkpoint or average, the model cannot be exported, or `output`
        holds other files.
    """
    for kind, values, known in (
        ("format", formats, available_formats()),
        ("platform", platforms, PLATFORMS),
    ):
        for value in values:
            if value not in known:
                raise unknown(kind, value, known)
    trial = trial_lib.load(directory)
    config = config_lib.from_dict(trial.config)
    saved = checkpoints.load(directory, step)
    prefix = "polyak_" if polyak else ""
    if f"{prefix}params" not in saved:
        raise UsageError(f"{directory} keeps no averaged parameters (hparams.polyak_decay)")
    workload = workload_lib.of_trial(trial)(config)
    examples = workload.splits()["validation"]
    variables = {name: saved[prefix + name] for name in ("params", "batch_stats")}
    model = make_model(workload, variables, examples, train_step.cast_hparams(config.hparams))
    name = f"{int(saved['step'])}" + ("-polyak" if polyak else "")
    place = epath.Path(output) if output else epath.Path(directory) / "exported" / name
    origin = {
        "workload": config.workload,
        "trial": str(epath.Path(directory).absolute()),
        "step": int(saved["step"]),
        "polyak": polyak,
        "commit": trial_lib.load(directory).provenance.get("commit"),
    }
    signature = write(model, place, formats, platforms, examples, origin)
    return signature | {"directory": place}


def write(
    model: Model,
    place: epath.Path,
    formats: Sequence[str],
    platforms: Sequence[str],
    examples: Mapping[str, np.ndarray],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes a model in these formats and returns the contents of `signature.json`.

    Args:
      model: the model.
      place: the directory, made if missing; an earlier export in it is replaced.
      formats: among FORMATS.
      platforms: among PLATFORMS.
      examples: on the first of which the formats are compared with the original.
      origin: what to note of where the model comes from.
    """
    exported = to_stablehlo(model, platforms)
    _clear(place)
    sample = {name: examples[name][:_CHECKED_EXAMPLES] for name in model.inputs}
    results = {}
    if "stablehlo" in formats:
        (place / "model.stablehlo").write_bytes(exported.serialize())
        with (place / "variables.npz").open("wb") as file:
            np.savez(file, **model.variables)
        results["stablehlo"] = exported.call(model.variables, sample)
    if "savedmodel" in formats:
        results["savedmodel"] = write_saved_model(model, place / "saved_model", platforms)(sample)
    reference = jax.jit(model.call)(model.variables, sample)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    signature = {
        **origin,
        "inputs": {name: _describe((_BATCH, *x.shape), x) for name, x in model.inputs.items()},
        "outputs": {name: _describe(x.shape, x) for name, x in outputs.items()},
        "platforms": list(platforms),
        "formats": {
            name: {
                "files": _FORMATS[name][0],
                "load": _FORMATS[name][1],
                "largest_difference": _largest_difference(result, reference),
            }
            for name, result in results.items()
        },
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }
    (place / "README.txt").write_text(_readme(signature))
    trial_lib.write_json(place / "signature.json", signature)
    return signature


def _clear(place: epath.Path) -> None:
    """Removes an earlier export; refuses to touch anything else."""
    ours = {file for files, _ in _FORMATS.values() for file in files}
    ours |= {"signature.json", "README.txt"}
    try:
        place.mkdir(parents=True, exist_ok=True)
        found = list(place.iterdir())
        foreign = sorted(path.name for path in found if path.name not in ours)
        if foreign:
            raise UsageError(f"{place} holds other files ({foreign[0]}); use another --output")
        for path in found:
            path.rmtree() if path.is_dir() else path.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {place}: {error.strerror or error}") from error


def _describe(shape: Sequence[Any], x: Any) -> dict[str, Any]:
    return {
        "shape": [size if isinstance(size, int) else str(size) for size in shape],
        "dtype": str(x.dtype),
    }


def _largest_difference(result: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    pairs = [
        (np.asarray(result[k], np.float64), np.asarray(x, np.float64)) for k, x in reference.items()
    ]
    return max(float(np.max(np.abs(x - y))) for x, y in pairs)


def _readme(signature: Mapping[str, Any]) -> str:
    lines = [f"The model {signature['workload']} after {signature['step']} steps of training."]
    for kind in ("inputs", "outputs"):
        lines += ["", f"{kind.capitalize()}:"]
        for name, x in signature[kind].items():
            lines.append(f"  {name}: {x['dtype']} [{', '.join(map(str, x['shape']))}]")
    lines += [
        "",
        f"Runs on {', '.join(signature['platforms'])}, with any batch size. StableHLO made by jax "
        f"{signature['versions']['jax']} loads",
        "with that version and those of the six months after it.",
    ]
    example = ", ".join(f'"{name}": …' for name in signature["inputs"])
    for name, entry in signature["formats"].items():
        lines += [
            "",
            f"{name}: load it in this directory, with features = {{{example}}}:",
            "",
            *(f"    {line}" for line in entry["load"]),
        ]
    return "\n".join(lines) + "\n"

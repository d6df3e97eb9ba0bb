"""Knows how the words of a command line become what a build is asked for; must not know how it is
done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from buildgraph.cli.around import parse_bytes, parse_hosts, parse_ulimits
from buildgraph.cli.flags import BuildFlags
from buildgraph.cli.grants import log_limit, parse_agent, parse_grants
from buildgraph.cli.options import parse_pairs
from buildgraph.cli.session import Settings
from buildgraph.engine.deliver import DeliveryOptions
from buildgraph.engine.fields import parse_fields
from buildgraph.engine.mounts import SecretSource
from buildgraph.engine.outputs import Output, compression_of, parse_output
from buildgraph.engine.prepare import Overrides
from buildgraph.errors import InputError
from buildgraph.graph.ops import Surroundings
from buildgraph.oci.annotations import parse_annotation
from buildgraph.sandbox.spec import Limits


def settings_of(asked: BuildFlags, environ: Mapping[str, str]) -> Settings:
    """Return what the flags say about a run. Raises InputError."""
    swap = None if asked.memory_swap == "-1" else asked.memory_swap
    return Settings(
        store=asked.store,
        jobs=asked.jobs or 0,
        keep_going=asked.keep_going,
        keep_failed=asked.on_error == "shell",
        no_cache=asked.no_cache,
        no_cache_stages=_words(asked.no_cache_filter),
        offline=asked.offline,
        pull=asked.pull,
        compression=compression_of(_outputs(asked)),
        overrides=overrides_of(asked, environ),
        secrets=dict(parse_secret(text, environ) for text in asked.secrets),
        agents=dict(parse_agent(text, environ) for text in asked.ssh),
        step_limits=Limits(
            memory=parse_bytes(asked.memory, "--memory"),
            memory_swap=parse_bytes(swap, "--memory-swap"),
            timeout=asked.timeout,
            log=log_limit(environ),
        ),
        hosts=parse_hosts(asked.add_host),
    )


def overrides_of(asked: BuildFlags, environ: Mapping[str, str]) -> Overrides:
    """Return what the flags change in the targets. Raises InputError."""
    return Overrides(
        args=parse_pairs(asked.build_args, "--build-arg", environ),
        contexts=parse_pairs(asked.contexts, "--build-context"),
        stage=asked.stage,
        platforms=_words(asked.platforms),
        labels=parse_pairs(asked.labels, "--label"),
        network=asked.network,  # type: ignore[arg-type]  # click holds it to the three words
        allow=parse_grants(asked.allow),
        around=Surroundings(
            hosts=tuple(sorted(parse_hosts(asked.add_host))),
            shm=parse_bytes(asked.shm_size, "--shm-size") or 0,
            ulimits=parse_ulimits(asked.ulimit),
        ),
    )


def delivery_of(asked: BuildFlags) -> DeliveryOptions:
    """Return what is to become of the images. Raises InputError."""
    outputs = _outputs(asked)
    return DeliveryOptions(
        outputs=outputs,
        tags=asked.tags,
        annotations=tuple(one for text in asked.annotations for one in parse_annotation(text)),
        compression=compression_of(outputs),
        iidfile=asked.iidfile,
        metadata_file=asked.metadata_file,
    )


def parse_secret(text: str, environ: Mapping[str, str]) -> tuple[str, SecretSource]:
    """Parse `--secret`: `id=ID[,src=FILE|,env=NAME][,type=file|env]`; the type is told by the rest.

    Without a source it is the variable of the same name, else, as buildx has it, the file.
    """
    fields = parse_fields(text, "--secret")
    identity = fields.pop("id", "")
    kind = fields.pop("type", "")
    source = fields.pop("src", None) or fields.pop("source", None)
    env = fields.pop("env", None)
    if not identity or fields or kind not in ("", "file", "env") or (source and env):
        raise InputError(f"--secret {text}: expected id=ID,src=FILE or id=ID,env=NAME")
    if kind == "env" and source is not None:
        source, env = None, source  # docker: type=env,src=NAME
    if source is None and env is None:
        if identity not in environ and os.path.isfile(identity):
            source = identity
        else:
            env = identity
    return identity, SecretSource(env, os.path.abspath(source) if source else None)


def _outputs(asked: BuildFlags) -> tuple[Output, ...]:
    outputs = tuple(parse_output(text) for text in asked.outputs)
    if asked.push and not any(output.type == "registry" for output in outputs):
        outputs = (*outputs, Output("registry"))
    if asked.load and not any(o.type == "load" and o.engine == asked.load for o in outputs):
        outputs = (*outputs, Output("load", engine=asked.load))  # type: ignore[arg-type]  # click
    return outputs


def _words(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of flags that also take several with commas between."""
    return tuple(word for text in texts for word in text.split(",") if word)

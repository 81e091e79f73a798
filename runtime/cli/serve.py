"""`glm-plan serve`: an OpenAI-compatible server around one planned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.on_cluster import cluster_options, target_on_cluster
from runtime.cli.planning import planning_options
from runtime.cli.serve_options import ENVIRONMENT_PREFIX, config_option, service_options
from runtime.cli.target import target_options
from scheduler.planning import Planning

if TYPE_CHECKING:
    from runtime.cluster.frames import WireDtype
    from runtime.service.log_lines import LogFormat


@click.command(context_settings={"auto_envvar_prefix": ENVIRONMENT_PREFIX, "show_default": True})
@target_options
@planning_options(default_model="tiny-glm", host_flag="--host-profile")
@cluster_options
@service_options
@config_option
def command(
    planning: Planning,
    bundle_dir: Path | None,
    plan_file: Path | None,
    cluster: str | None,
    wire: WireDtype,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    cors_origin: tuple[str, ...],
    log_level: str,
    log_format: LogFormat,
    **limits: Any,
) -> None:
    """Serve a model over HTTP with OpenAI's API, its plan, health and metrics.

    Every option can also be set in the environment (GLM_PLAN_PORT=9000) or in a TOML file
    (--config); a flag is stronger than the environment, and that than the file.

    \b
    glm-plan serve                                        the model that ships with glm-plan
    glm-plan serve --bundle DIR --vram 11 --slots 4       your own, split over GPU and CPU
    glm-plan serve --host 0.0.0.0 --api-key-file keys     for other machines
    """
    from runtime.cli.target import target_of
    from runtime.service.settings import ServiceSettings, read_api_keys
    from scheduler.errors import UserInputError

    try:
        from runtime.service.log_lines import announce, configure_logging
        from runtime.service.served_model import ServedModel
        from runtime.service.server import serve
    except ImportError as error:
        raise UserInputError(
            f"serving needs the serve extra ({error.name} is missing); install it with"
            " `pip install 'glm-plan[serve]'`."
        ) from None
    from runtime.launch_here import launches_here

    settings = ServiceSettings(
        api_keys=read_api_keys(api_key, api_key_file), cors_origins=cors_origin, **limits
    )
    configure_logging(log_level, log_format)
    start = None
    if cluster is None:
        plan, spec, bundle = target_of(planning, bundle_dir, plan_file)
        launches = launches_here(plan, spec, bundle)
    else:
        plan, bundle, start = target_on_cluster(cluster, wire, planning, bundle_dir, plan_file)
        launches = start.launches
    for launch in launches:
        if launch.notice:
            announce(launch.notice)
    serve(ServedModel(plan, bundle, launches, settings.queue, start), settings)

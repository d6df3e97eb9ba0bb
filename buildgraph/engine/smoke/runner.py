"""Knows how one test goes from images to a verdict; must not know how it is shown.

A test that fails is a result, not an error, so that it stops no other one. Errors are what the
author or the machine has to see to: a service without a command, a kernel without namespaces.
"""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph import events as ev
from buildgraph.boxfile.smoke import (
    SECOND,
    Check,
    CommandCheck,
    ConfigCheck,
    ExitCheck,
    FileCheck,
    LimitsCheck,
    Service,
    ServiceImage,
    SmokeTarget,
    Subject,
)
from buildgraph.boxfile.target import LayoutContext
from buildgraph.engine.build import Delivery
from buildgraph.engine.container.running import ImageContainer
from buildgraph.engine.deliver import assemble
from buildgraph.engine.prepare import Prepared, SmokePlan
from buildgraph.engine.smoke.checks import Ending, Finding, run_check
from buildgraph.engine.smoke.containers import Containers, ServiceContainer, log_path
from buildgraph.engine.smoke.ensemble import Ensemble, Member
from buildgraph.engine.smoke.health import Probe, probe_of
from buildgraph.engine.smoke.inside import Inside
from buildgraph.engine.smoke.logs import ServiceLog
from buildgraph.engine.smoke.provisions import Provisions
from buildgraph.engine.smoke.report import LOG_LINES, ServiceReport, SmokeReport
from buildgraph.engine.smoke.verdict import (
    load_verdict,
    reasons,
    save_logs,
    save_verdict,
    verdict_key,
)
from buildgraph.engine.smoke.world import Over
from buildgraph.engine.work import Outcome
from buildgraph.errors import InputError, Interrupted
from buildgraph.graph.keys import NodeKey
from buildgraph.label import Label
from buildgraph.oci.chains import sized
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.types import Image, Platform
from buildgraph.sandbox.host import SandboxHost
from buildgraph_cache.scratch import Scratch
from buildgraph_cache.store import Store

TIMEOUT: Final = 300.0  # seconds for a whole test that names none

# Called while the containers of a test are up, before they are stopped.
Hold = Callable[[SmokeReport, Mapping[str, ImageContainer]], None]


class SmokeOptions(Struct, frozen=True):
    """How tests are run, never what they check; `filters` are patterns of names of checks."""

    runs: int = 1
    no_cache: bool = False
    filters: tuple[str, ...] = ()
    timeout: float | None = None
    hold: Hold | None = None

    @property
    def why_anew(self) -> str:
        """The flag for which a verdict of before does not count, "" where it does."""
        if self.no_cache:
            return "--no-cache"
        if self.hold is not None:
            return "--keep"
        return f"--runs {self.runs}" if self.runs > 1 else ""


class SmokeRunner(Struct):
    """Runs the smoke tests of one build; `reports` has what came of them, by label."""

    store: Store
    layers: LayerStore
    sandbox: SandboxHost
    provisions: Provisions
    platform: Platform
    epoch: int
    options: SmokeOptions
    listener: ev.Listener
    now: Callable[[], float]
    cancel: threading.Event
    reports: dict[str, SmokeReport] = field(default_factory=dict)

    def deliveries(self, prepared: Prepared) -> list[Delivery]:
        """Return what is to be run, each as soon as the nodes of its images are done.

        Raises InputError for filters that leave nothing of any test.
        """
        out: list[Delivery] = []
        for plan in prepared.smokes:
            chosen = self._filtered(plan)
            if chosen is None:
                continue

            def run(outcomes: Mapping[int, Outcome], plan: SmokePlan = chosen) -> ev.SmokeFinished:
                return self._judge(plan, outcomes)

            out.append(Delivery(str(plan.target.label), plan.needs, run, "test"))
        if prepared.smokes and not out:
            names = sorted({c.name for plan in prepared.smokes for c in plan.target.checks})
            raise InputError(
                f"no check is called {' or '.join(map(repr, self.options.filters))}",
                hint="checks: " + ", ".join(names[:10]),
            )
        return out

    def _filtered(self, plan: SmokePlan) -> SmokePlan | None:
        if not self.options.filters:
            return plan
        checks = tuple(
            check
            for check in plan.target.checks
            if any(fnmatch.fnmatchcase(check.name, f"*{text}*") for text in self.options.filters)
        )
        return replace(plan, target=replace(plan.target, checks=checks)) if checks else None

    # -- one test ----------------------------------------------------------------------------------

    def _judge(self, plan: SmokePlan, outcomes: Mapping[int, Outcome]) -> ev.SmokeFinished:
        target = plan.target
        label = str(target.label)
        images = self._images(plan, outcomes)
        key = verdict_key(target, images, self.platform, self.provisions)
        known = None if self.options.why_anew else load_verdict(self.store, key)
        if known is not None:
            report = SmokeReport(
                label, target.where, True, known.seconds, cached=True, key=key.digest
            )
            self.reports[label] = report
            return _finished(report, known.checks)
        report = self._runs(target, images, key)
        self.reports[label] = report
        if report.ok and not self.store.read_only:
            checks = [(finding.check.name, finding.seconds) for finding in report.findings]
            save_verdict(self.store, label, key, report.seconds, checks)
        return _finished(report, report.passed)

    def _runs(
        self, target: SmokeTarget, images: Mapping[ServiceImage, Image], key: NodeKey
    ) -> SmokeReport:
        """Run a test as often as was asked; what is told of several is the first that failed."""
        label = str(target.label)
        why = () if self.options.why_anew else reasons(self.store, label, key)
        first = self.options.why_anew or (str(why[0]) if why else "")
        told: SmokeReport | None = None
        passed: list[bool] = []
        for number in range(1, self.options.runs + 1):
            names = tuple(service.name for service in target.services)
            self.listener(
                ev.SmokeStarted(self.now(), label, names, len(target.checks), first, number)
            )
            report = self._once(target, images, key)
            passed.append(report.ok)
            if told is None or (told.ok and not report.ok):
                told = report
        assert told is not None
        return replace(told, ok=all(passed), runs=tuple(passed))

    def _images(
        self, plan: SmokePlan, outcomes: Mapping[int, Outcome]
    ) -> dict[ServiceImage, Image]:
        out: dict[ServiceImage, Image] = {
            label: assemble(each, outcomes, self.epoch) for label, each in plan.plans.items()
        }
        out |= {name: Image(config, chain) for name, (config, chain) in plan.outside.items()}
        return {n: Image(i.config, sized(self.layers, i.chain)) for n, i in out.items()}

    def _once(
        self, target: SmokeTarget, images: Mapping[ServiceImage, Image], key: NodeKey
    ) -> SmokeReport:
        begun = time.monotonic()
        limit = self.options.timeout
        if limit is None:
            limit = TIMEOUT if target.timeout is None else target.timeout / SECOND
        with ExitStack() as stack:
            scratch = stack.enter_context(self.store.new_scratch())
            test = self._set_up(target, images, scratch, stack, begun, begun + limit)
            reason = ""
            skipped: tuple[str, ...] = ()
            failure: BaseException | None = None
            findings: list[Finding] = []
            try:
                reason, skipped = self._make_checks(target, test, findings)
                report = self._report(target, test, key, begun, findings, skipped, reason)
                self._hold(report, test)
            except BaseException as error:
                failure = error
                raise
            finally:
                interrupted = self.cancel.is_set() or (
                    failure is not None and not isinstance(failure, Exception)
                )
                test.ensemble.stop(now=interrupted)
                self._keep_logs(target, test, ok=not reason and all(f.ok for f in findings))
        return report

    def _set_up(
        self,
        target: SmokeTarget,
        images: Mapping[ServiceImage, Image],
        scratch: Scratch,
        stack: ExitStack,
        begun: float,
        deadline: float,
    ) -> Inside:
        own = {service.name: images[service.image] for service in target.services}
        logs = {name: ServiceLog(log_path(scratch, name)) for name in own}
        for log in logs.values():
            stack.callback(log.close)
        network = None
        if target.services:
            outside = target.network == "default"
            network = stack.enter_context(self.sandbox.private_network(outside=outside))
        containers = Containers(
            self.store,
            self.layers,
            self.sandbox,
            self.provisions,
            own,
            network,
            scratch,
            self.cancel,
            lambda name: logs[name].write,
        )
        label = str(target.label)

        def tell(member: Member, text: str) -> None:
            spent = time.monotonic() - begun
            self.listener(ev.SmokeNote(self.now(), label, member.name, text, spent))

        ensemble = Ensemble(
            target.services,
            _probes(target.services, own),
            containers.start,
            frozenset(c.what.service for c in target.checks if isinstance(c.what, ExitCheck)),
            self.cancel,
            deadline,
            tell,
        )
        subjects: dict[Subject, Image] = {Subject(service=n): i for n, i in own.items()}
        subjects |= {Subject(image=i): images[i] for i in images if isinstance(i, Label)}
        return Inside(containers, ensemble, subjects, logs)

    def _make_checks(
        self, target: SmokeTarget, test: Inside, findings: list[Finding]
    ) -> tuple[str, tuple[str, ...]]:
        """Make all checks, those of images first; return why it ended early and what was left."""
        first = [check for check in target.checks if not _needs_services(check)]
        second = [check for check in target.checks if _needs_services(check)]
        left = [*first, *second]
        try:
            for check in first:
                self._check(target, check, test, findings)
                left.remove(check)
            test.ensemble.start()
            for check in second:
                self._check(target, check, test, findings)
                left.remove(check)
                test.ensemble.alive()
        except Ending as over:
            self._found(target, over.finding, findings)
            left.remove(over.finding.check)
            return self._over(over), tuple(check.name for check in left)
        except Over as over:
            return self._over(over), tuple(check.name for check in left)
        return "", ()

    def _over(self, over: Over) -> str:
        if self.cancel.is_set():
            raise Interrupted("interrupted") from over
        return over.reason

    def _check(
        self, target: SmokeTarget, check: Check, test: Inside, findings: list[Finding]
    ) -> None:
        self._found(target, run_check(check, test), findings)

    def _found(self, target: SmokeTarget, found: Finding, findings: list[Finding]) -> None:
        findings.append(found)
        self.listener(
            ev.CheckFinished(
                self.now(),
                str(target.label),
                found.check.name,
                found.ok,
                found.seconds,
                found.attempt.complaints,
                found.check.where,
            )
        )

    def _hold(self, report: SmokeReport, test: Inside) -> None:
        if self.options.hold is not None:
            up = {
                member.name: member.actor.container
                for member in test.ensemble.members
                if isinstance(member.actor, ServiceContainer) and member.ended is None
            }
            self.options.hold(report, up)

    def _report(
        self,
        target: SmokeTarget,
        test: Inside,
        key: NodeKey,
        begun: float,
        findings: list[Finding],
        skipped: tuple[str, ...],
        reason: str,
    ) -> SmokeReport:
        services = tuple(
            ServiceReport(
                service.name,
                _image_name(service.image),
                tuple(
                    m.ended.text if m.ended else _STATES[m.state.value]
                    for m in test.ensemble.of(service.name)
                )
                or ("not started",),
                test.log_files[service.name].last_lines(LOG_LINES),
            )
            for service in target.services
        )
        return SmokeReport(
            str(target.label),
            target.where,
            not reason and not skipped and all(finding.ok for finding in findings),
            time.monotonic() - begun,
            tuple(findings),
            skipped,
            services,
            reason,
            key=key.digest,
        )

    def _keep_logs(self, target: SmokeTarget, test: Inside, *, ok: bool) -> None:
        if not self.store.read_only:
            logs = {name: log.read() for name, log in test.log_files.items()}
            save_logs(self.store, str(target.label), ok, logs)


_STATES: Final = {
    "waiting": "waiting for what it depends on",
    "starting": "starting",
    "started": "running",
    "healthy": "running",
    "ended": "ended",
}


def _image_name(image: ServiceImage) -> str:
    if isinstance(image, Label):
        return str(image)
    return f"oci-layout://{image.path}" if isinstance(image, LayoutContext) else image.reference


def _needs_services(check: Check) -> bool:
    what = check.what
    if isinstance(what, ConfigCheck | LimitsCheck | CommandCheck):
        return False
    return not (isinstance(what, FileCheck) and what.subject.service is None)


def _probes(services: tuple[Service, ...], images: Mapping[str, Image]) -> dict[str, Probe | None]:
    """Return the healthcheck of every service. Raises InputError where one is missed."""
    probes = {s.name: probe_of(s.health, images[s.name].config) for s in services}
    for service in services:
        for need in service.depends_on:
            if need.condition == "healthy" and probes[need.service] is None:
                raise InputError(
                    f"{need.service} has no healthcheck, so it never becomes healthy",
                    need.where,
                    "write one into the Dockerfile or the service, or wait for `started`",
                )
    return probes


def _finished(report: SmokeReport, passed: int) -> ev.SmokeFinished:
    return ev.SmokeFinished(
        0.0,
        report.label,
        report.ok,
        report.cached,
        report.seconds,
        passed,
        report.failed,
        report.reason,
        len(report.runs),
        sum(report.runs),
    )

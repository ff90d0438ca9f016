"""Functions of a provider, for its admin, for those whom they are granted to, and for those whom they are not."""

from __future__ import annotations

import tarfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from qiskit_serverless import QiskitFunction

from .cells import NO_SERVICE, OLD, World, cell, refused, told, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def solver(world: World, somebody: str) -> Any:
    """Return the provider's function, as somebody finds it."""
    return world.of(somebody).function(f"{world.provider}/solver")


def solved(world: World, somebody: str, n: int) -> Any:
    """Return a job of somebody's that is over, the same one each time."""
    if f"{n} for {somebody}" not in world.made:
        job = world.made[f"{n} for {somebody}"] = solver(world, somebody).run(n=n)
        wait_for(lambda: job.status() in {"DONE", "ERROR"}, f"the solver for {somebody}")
    return world.made[f"{n} for {somebody}"]


def refused_to(world: World, somebodies: Iterable[str], call: Callable[[Any], Any], text: str) -> None:
    """Assert that a call is refused to some, as if it were about nothing."""
    for somebody in somebodies:
        refused(partial(call, world.of(somebody)), text, "404")


def pack(name: str) -> str:
    """Make a file."""
    with tarfile.open(name, "w") as archive:
        archive.add("programs")
    return name


@cell("of providers: upload")
def upload(world: World) -> None:
    function = QiskitFunction(
        title="solver",
        provider=world.provider,
        entrypoint="solver.py",
        working_dir="programs",
        env_vars={"A": "secret"},
    )
    made = world.of("publisher").upload(function)
    assert (made.title, made.provider, made.entrypoint) == ("solver", world.provider, "solver.py")
    text = f"Provider {world.provider} doesn't exist."
    refused_to(world, ("granted", "stranger"), lambda client: client.upload(function), text)
    image = QiskitFunction(title="image", provider=world.provider, image="registry/image")
    refused(lambda: world.of("publisher").upload(image), "Custom images are not taken here")


@cell("of providers: functions, function")
def found(world: World) -> None:
    for somebody in ("granted", "member", "trial", "reader"):
        listed = world.of(somebody).functions(filter="catalog")
        assert (world.provider, "solver") in {(each.provider, each.title) for each in listed}, somebody
        seen = world.of(somebody).function("solver", provider=world.provider)
        assert (seen.provider, seen.entrypoint, seen.env_vars) == (world.provider, None, {}), seen
    assert solver(world, "publisher").entrypoint == "solver.py"
    assert world.of("granted").functions(filter="serverless") == []
    assert world.of("stranger").functions() == []
    for title in ("solver", "nothing"):  # What is not for somebody's eyes looks like what is not there.
        name = f"{world.provider}/{title}"
        refused(partial(world.of("stranger").function, name), f"Qiskit Function {name} doesn't exist.", "404")


@cell("of providers: run, by whom it is granted to")
def run(world: World) -> None:
    for n, somebody in enumerate(("granted", "member", "trial", "publisher"), 3):
        result = solved(world, somebody, n).result()
        assert (result["square"], result["trial"]) == (n * n, somebody == "trial")
    text = f"Qiskit Function {world.provider}/solver doesn't exist."
    refused_to(
        world, ("reader", "stranger"), lambda client: client.run("solver", {"n": 1}, provider=world.provider), text
    )


@cell("of providers: run, disabled")
def disabled(world: World) -> None:
    function = world.of("granted").function(f"{world.provider}/closed")
    refused(function.run, "Closed until Monday.", "423")


@cell("of providers: jobs of one's own")
def own_jobs(world: World) -> None:
    job = solved(world, "granted", 3)
    client = world.of("granted")
    assert [each.job_id for each in solver(world, "granted").jobs()] == [job.job_id]
    assert [each.job_id for each in client.jobs(filter="catalog")] == [job.job_id]
    assert client.jobs(filter="serverless") == []
    assert job.logs() == "INFO: for the user\n"


@cell("ServerlessClient.provider_jobs")
def provider_jobs(world: World) -> None:
    client, function = world.of("publisher"), solver(world, "publisher")
    jobs = client.provider_jobs(function, limit=50)
    assert {job.job_id for job in jobs} == {
        solved(world, somebody, n).job_id for n, somebody in enumerate(("granted", "member", "trial", "publisher"), 3)
    }
    assert {job.status() for job in jobs} == {"DONE"}
    assert len(client.provider_jobs(function, limit=2, offset=1)) == 2
    text = f"Provider {world.provider} doesn't exist."
    refused_to(world, ("granted", "reader", "stranger"), lambda client: client.provider_jobs(function), text)
    refused(lambda: client.provider_jobs(QiskitFunction("solver")), "`function` doesn't have a provider.")
    nothing = QiskitFunction(title="nothing", provider=world.provider)
    refused(lambda: client.provider_jobs(nothing), f"Qiskit Function {world.provider}/nothing doesn't exist.")


@cell("of providers: what its people see of a user's job")
def others_job(world: World) -> None:
    job_id = solved(world, "granted", 3).job_id
    seen = world.of("publisher").job(job_id)
    assert seen.status() == "DONE"
    refused(seen.logs, f"You don't have access to read user logs of the job [{job_id}]", "403")
    if OLD:
        assert seen.result() == {}
    else:
        refused(seen.result, f"You don't have access to read result of the job [{job_id}]", "403")
        refused(seen.events, f"Job [{job_id}] not found", "404")
        refused(partial(seen.cancel, NO_SERVICE), f"Job [{job_id}] not found", "404")
    refused(lambda: world.of("stranger").job(job_id), f"Job [{job_id}] not found", "404")


@cell("Job.provider_logs")
def provider_logs(world: World) -> None:
    job_id = solved(world, "granted", 3).job_id
    assert world.of("publisher").job(job_id).provider_logs() == "INFO: for the provider\n"
    refused(solved(world, "granted", 3).provider_logs, f"You don't have access to job [{job_id}]", "403")
    refused(lambda: world.of("stranger").provider_logs(job_id), f"Job [{job_id}] not found", "404")
    own = world.over("values")
    refused(own.provider_logs, f"You don't have access to job [{own.job_id}]", "403")


@cell("of providers: a user's files")
def files_of_users(world: World) -> None:
    client, function = world.of("granted"), solver(world, "granted")
    client.file_upload(pack("mine.tar"), function)
    assert client.files(function) == ["mine.tar"]
    assert client.files(QiskitFunction("", provider=None)) == [], "files of own functions are apart"
    assert world.of("member").files(function) == world.of("publisher").files(function) == []
    text = f"Qiskit Function {world.provider}/solver doesn't exist."
    refused(lambda: world.of("stranger").files(function), text, "404")


@cell("ServerlessClient.provider_file_upload")
def provider_file_upload(world: World) -> None:
    function = solver(world, "publisher")
    assert "weights.tar" in world.of("publisher").provider_file_upload(pack("weights.tar"), function)
    if not OLD:  # Which tells that by its answer alone.
        text = f"Provider {world.provider} doesn't exist."
        refused_to(
            world, ("granted", "stranger"), lambda client: client.provider_file_upload("weights.tar", function), text
        )


@cell("ServerlessClient.provider_files")
def provider_files(world: World) -> None:
    function = solver(world, "publisher")
    assert world.of("publisher").provider_files(function) == ["weights.tar"]
    refused(lambda: world.of("granted").provider_files(function), f"Provider {world.provider} doesn't exist.", "404")
    job = solved(world, "granted", 7)
    assert (job.result()["files"], job.result()["provided"]) == (["mine.tar"], ["weights.tar"])


@cell("ServerlessClient.provider_file_download")
def provider_file_download(world: World) -> None:
    function = solver(world, "publisher")
    world.of("publisher").provider_file_download("weights.tar", function, target_name="again.tar")
    assert Path("again.tar").read_bytes() == Path("weights.tar").read_bytes()
    call = world.of("granted").provider_file_download
    assert "404 Client Error" in told(lambda: call("weights.tar", function), requests.HTTPError)


@cell("ServerlessClient.provider_file_delete")
def provider_file_delete(world: World) -> None:
    function = solver(world, "publisher")
    refused(lambda: world.of("granted").provider_file_delete("weights.tar", function), "doesn't exist.", "404")
    assert world.of("publisher").provider_file_delete("weights.tar", function) == "Requested file was deleted."
    assert world.of("publisher").provider_files(function) == []

"""Versions that don't change under anybody: aliases, what is in a version, uploads of only what is new, schemas."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from integration.gateway.rig import tar
from qiskit import QuantumCircuit
from qonduit import ServerlessClient
from qonduit.encoding import encode
from qonduit_api.v1 import cluster_pb2, jobs_pb2
from qonduit_api.v1 import functions_pb2 as pb
from qonduit_service_kit.errors import ApiError, from_rpc_error

if TYPE_CHECKING:
    from integration.gateway.rig import Client, Service

PROGRAM = b"print('hello')\n"


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def set_alias(client: Client, alias: str, version: str = "", title: str = "hello") -> pb.Function:
    request = pb.SetFunctionAliasRequest(title=title, alias=alias, version=version)
    answer: pb.SetFunctionAliasResponse = await client.functions.SetFunctionAlias(request)
    return answer.function


async def get(client: Client, title: str, version: str = "") -> pb.Function:
    answer: pb.GetFunctionResponse = await client.functions.GetFunction(
        pb.GetFunctionRequest(title=title, version=version)
    )
    return answer.function


async def files_of(client: Client, title: str, version: str = "") -> list[pb.FunctionFile]:
    call = client.functions.ListFunctionFiles(pb.ListFunctionFilesRequest(title=title, version=version))
    return [file async for page in call for file in page.files]


async def test_an_alias_stands_for_a_version_until_it_is_moved(client: Client) -> None:
    first = (await client.upload(description="first")).function
    second = (await client.upload(description="second")).function
    assert (await set_alias(client, "stable", first.version[:8])).aliases == ["stable"]
    assert (await get(client, "hello@stable")).version == first.version
    assert (await get(client, "hello@latest")).version == second.version
    assert (await get(client, "hello", "stable")).version == first.version
    assert (await get(client, f"hello@{first.version}")).version == first.version
    job = await client.run("hello@stable")
    assert (job.function_title, job.function_version) == ("hello", first.version)

    moved = await set_alias(client, "stable", "latest")
    assert (moved.version, moved.aliases) == (second.version, ["latest", "stable"])
    assert (await client.run("hello@stable")).function_version == second.version
    # A job that was accepted keeps its version.
    assert (await client.get(job.job_id)).function_version == first.version


async def test_rolling_back_moves_latest_until_the_next_upload(client: Client) -> None:
    first = (await client.upload(description="first")).function
    await client.upload(description="second")
    await set_alias(client, "latest", first.version)
    assert (await client.run()).function_version == first.version
    listed = (await client.functions.ListFunctions(pb.ListFunctionsRequest())).functions
    assert [(function.version, list(function.aliases)) for function in listed] == [(first.version, ["latest"])]
    third = (await client.upload(description="third")).function
    assert (await client.run()).function_version == third.version


async def test_what_is_uploaded_again_is_the_newest_and_is_rolled_back_from(client: Client, gateway: Service) -> None:
    token = (await client.cluster.CreateToken(cluster_pb2.CreateTokenRequest(label="sdk"))).token
    first = (await client.upload(description="first")).function
    second = (await client.upload(description="second")).function
    again = await client.upload(description="first")
    assert (again.created, again.function.version) == (False, first.version)
    assert again.function.create_time.ToNanoseconds() > second.create_time.ToNanoseconds()

    def roll_back() -> list[tuple[str, tuple[str, ...]]]:
        with ServerlessClient(gateway.address, token=token) as mine:
            rolled = mine.get("hello").rollback()
            return [(version.version, version.aliases) for version in rolled.versions()]

    listed = await asyncio.to_thread(roll_back)
    assert listed == [(first.version, ()), (second.version, ("latest",))]
    assert (await client.run()).function_version == second.version


async def test_aliases_are_refused_and_removed_with_what_to_do(client: Client, other: Client) -> None:
    await client.upload()
    for alias in ("", "a b", "-x", "deadbeef", "a" * 65, "ab@c"):
        assert (await refusal(set_alias(client, alias))).reason == "INVALID_ALIAS"
    await set_alias(client, "stable")
    unknown = await refusal(get(client, "hello@stabel"))
    assert (unknown.reason, "latest, stable" in unknown.text) == ("INVALID_VERSION", True)
    assert (await refusal(get(client, "helo@stable"))).reason == "FUNCTION_NOT_FOUND"
    for call in (get(other, "hello@stable"), set_alias(other, "stable"), files_of(other, "hello")):
        assert (await refusal(call)).reason == "FUNCTION_NOT_FOUND"
    gone = pb.DeleteFunctionAliasRequest(title="hello", alias="stable")
    assert (await refusal(other.functions.DeleteFunctionAlias(gone))).reason == "ALIAS_NOT_FOUND"
    await client.functions.DeleteFunctionAlias(gone)
    assert (await refusal(client.functions.DeleteFunctionAlias(gone))).reason == "ALIAS_NOT_FOUND"
    latest = pb.DeleteFunctionAliasRequest(title="hello", alias="latest")
    assert (await refusal(client.functions.DeleteFunctionAlias(latest))).reason == "INVALID_ALIAS"


def packed(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def header(artifact: bytes, *, base: str = "", title: str = "hello") -> pb.UploadFunctionRequest:
    return pb.UploadFunctionRequest(
        header=pb.UploadFunctionHeader(
            spec=pb.FunctionSpec(title=title, entrypoint="program.py"),
            artifact_digest=hashlib.sha256(artifact).hexdigest(),
            artifact_bytes=len(artifact),
            base_version=base,
        )
    )


async def send(client: Client, *requests: pb.UploadFunctionRequest) -> pb.Function:
    answer: pb.UploadFunctionResponse = await client.functions.UploadFunction(iter(requests))
    return answer.function


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
async def test_a_versions_files_are_listed_with_where_and_what_they_are(client: Client, form: int) -> None:
    files = {"program.py": PROGRAM, "empty": b"", f"{'deep/' * 40}ä.bin": bytes(range(256)) * 5000}
    artifact = packed(files, form)
    await send(client, header(artifact), pb.UploadFunctionRequest(chunk=artifact[:1_000_000]),
               pb.UploadFunctionRequest(chunk=artifact[1_000_000:]))  # fmt: skip
    listed = await files_of(client, "hello")
    assert [file.path for file in listed] == sorted(files)
    for file in listed:
        content = files[file.path]
        assert (file.size_bytes, file.digest) == (len(content), hashlib.sha256(content).hexdigest())
        assert artifact[file.offset : file.offset + file.size_bytes] == content


async def test_only_what_is_new_is_sent(client: Client) -> None:
    data = bytes(range(256)) * 3000
    old = packed({"data.bin": data, "program.py": PROGRAM})
    first = await send(client, header(old), pb.UploadFunctionRequest(chunk=old))
    (known,) = [file for file in await files_of(client, "hello") if file.path == "data.bin"]

    new = packed({"data.bin": data, "program.py": b"print('new')\n"})
    at = new.index(data)
    copy = pb.ArtifactRange(offset=known.offset, length=known.size_bytes)
    second = await send(
        client,
        header(new, base=first.version),
        pb.UploadFunctionRequest(chunk=new[:at]),
        pb.UploadFunctionRequest(copy=copy),
        pb.UploadFunctionRequest(chunk=new[at + len(data) :]),
    )
    assert second.version != first.version
    assert second.artifact_digest == hashlib.sha256(new).hexdigest()
    listed = {file.path: file.digest for file in await files_of(client, "hello")}
    assert listed["data.bin"] == hashlib.sha256(data).hexdigest()
    assert listed["program.py"] == hashlib.sha256(b"print('new')\n").hexdigest()


async def test_copies_come_from_ones_own_version_and_from_inside_of_it(client: Client, other: Client) -> None:
    artifact = tar({"program.py": PROGRAM})
    first = await send(client, header(artifact), pb.UploadFunctionRequest(chunk=artifact))
    whole = pb.UploadFunctionRequest(copy=pb.ArtifactRange(offset=0, length=len(artifact)))
    assert (await send(client, header(artifact, base=first.version), whole)).version == first.version
    theirs = await refusal(send(other, header(artifact, base=first.version), whole))
    assert theirs.reason == "FUNCTION_NOT_FOUND"
    for offset, length in ((0, len(artifact) + 1), (-1, 10), (len(artifact), 1), (5, -1), (2**62, 2**62)):
        outside = pb.UploadFunctionRequest(copy=pb.ArtifactRange(offset=offset, length=length))
        assert (await refusal(send(client, header(artifact, base=first.version), outside))).reason == "INVALID_COPY"
    without = await refusal(send(client, header(artifact), whole))
    assert without.reason == "INVALID_COPY"
    shifted = pb.UploadFunctionRequest(copy=pb.ArtifactRange(offset=512, length=len(artifact) - 512))
    wrong = (pb.UploadFunctionRequest(chunk=artifact[512:1024]), shifted)
    assert (await refusal(send(client, header(artifact, base=first.version), *wrong))).reason in {
        "DIGEST_MISMATCH",
        "INVALID_FUNCTION",
    }


SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["shots"],
        "properties": {"shots": {"type": "integer", "minimum": 1}, "name": {"pattern": "^(a+)+$"}},
        "additionalProperties": False,
    }
)


async def test_arguments_are_checked_before_a_job_is_made(client: Client) -> None:
    function = (await client.upload(arguments_schema=SCHEMA)).function
    assert function.spec.arguments_schema == SCHEMA
    assert (await client.run(arguments_json=b'{"shots": 5}')).status == "QUEUED"
    for arguments, path, words in (
        (b"{}", "arguments", "shots"),
        (b'{"shots": 0}', "shots", "minimum"),
        (b'{"shots": "5"}', "shots", "integer"),
        (b'{"shots": 5, "shot": 6}', "arguments", "shot"),
        (b'{"shots": 5, "name": "\\ud800"}', "arguments", "half of a character"),
        # Made to take for ever where patterns are matched by trying.
        (b'{"shots": 5, "name": "' + b"a" * 5000 + b'b"}', "name", "match"),
    ):
        wrong = await refusal(client.run(arguments_json=arguments))
        assert (wrong.code, wrong.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS")
        assert list(wrong.violations) == [path]
        assert words in wrong.text
    assert len((await client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 1


async def test_large_arguments_are_checked_too(client: Client) -> None:
    await client.upload(arguments_schema=SCHEMA)
    arguments = json.dumps({"shots": 1, "more": "x" * 2_000_000}).encode()
    digest = hashlib.sha256(arguments).hexdigest()
    first = jobs_pb2.UploadArgumentsRequest(
        header=jobs_pb2.UploadArgumentsHeader(digest=digest, size_bytes=len(arguments))
    )
    chunks = [
        jobs_pb2.UploadArgumentsRequest(chunk=arguments[at : at + 2**20]) for at in range(0, len(arguments), 2**20)
    ]
    await client.jobs.UploadArguments(iter([first, *chunks]))
    wrong = await refusal(client.run(arguments_digest=digest))
    assert (wrong.reason, "more" in wrong.text) == ("INVALID_ARGUMENTS", True)


async def test_schemas_that_are_none_or_reach_out_are_refused(client: Client) -> None:
    for schema in (
        "not json",
        "[]",
        '{"type": "nonsense"}',
        '{"$ref": "http://127.0.0.1:1/schema.json"}',
        '{"$ref": "file:///etc/passwd"}',
        '{"properties": {"a": {"pattern": "(a)\\\\1"}}}',
        json.dumps({"description": "x" * 70_000}),
    ):
        wrong = await refusal(client.upload(arguments_schema=schema))
        assert (wrong.reason, list(wrong.violations)) == ("INVALID_FUNCTION", ["spec.arguments_schema"])


def doubling(levels: int) -> str:
    """A small schema that takes twice as long with each level."""
    levels_of = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return json.dumps({"$ref": "#/$defs/a0", "$defs": {**levels_of, f"a{levels}": {"type": "object"}}})


async def test_a_schema_that_would_take_years_holds_up_nobody(client: Client) -> None:
    await client.upload("slow", arguments_schema=doubling(50))
    await client.upload("quick", arguments_schema=SCHEMA)
    slow = asyncio.create_task(refusal(client.run("slow")))
    # The gateway goes on with everything else meanwhile.
    assert (await get(client, "quick")).spec.title == "quick"
    wrong = await slow
    assert (wrong.reason, "longer than 5 s" in wrong.text) == ("INVALID_ARGUMENTS", True)
    assert (await client.run("quick", arguments_json=b'{"shots": 5}')).status == "QUEUED"


async def run_with(client: Client, arguments: bytes) -> jobs_pb2.Job:
    """Run "hello" with arguments that are stored apart, as the SDK does where they are no JSON alone."""
    digest = hashlib.sha256(arguments).hexdigest()
    header = jobs_pb2.UploadArgumentsHeader(digest=digest, size_bytes=len(arguments))
    chunks = [arguments[at : at + 2**20] for at in range(0, len(arguments), 2**20)]
    parts = [jobs_pb2.UploadArgumentsRequest(chunk=chunk) for chunk in chunks]
    await client.jobs.UploadArguments(iter([jobs_pb2.UploadArgumentsRequest(header=header), *parts]))
    return await client.run(arguments_digest=digest)


async def test_much_json_is_not_checked_and_large_arrays_do_not_count(client: Client) -> None:
    await client.upload(arguments_schema=SCHEMA)
    much = await refusal(run_with(client, json.dumps({"shots": 1, "more": "x" * 17_000_000}).encode()))
    assert (much.reason, "16,777,216" in much.text) == ("INVALID_ARGUMENTS", True)
    text = b'{"shots": 5}'
    behind = bytes(20_000_000)
    numbers = (len(text), 1, len(behind))
    packed = b"QVALUE1\n" + b"".join(n.to_bytes(8, "little") for n in numbers) + text + behind
    assert (await run_with(client, packed)).job_id
    hostile = b"QVALUE1\n" + (2**63).to_bytes(8, "little") * 2 + behind
    assert (await refusal(run_with(client, hostile))).reason == "INVALID_ARGUMENTS"


def circuit_of(gates: int) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    for _ in range(gates):
        circuit.x(0)
    return circuit


async def test_a_schema_sees_the_type_of_a_value_however_large_it_is(client: Client) -> None:
    types = {"array": "ndarray", "circuit": "QuantumCircuit"}
    described = {
        name: {"type": "object", "required": ["__type__"], "properties": {"__type__": {"const": kind}}}
        for name, kind in types.items()
    }
    await client.upload(arguments_schema=json.dumps({"required": list(types), "properties": described}))
    for array, circuit in ((np.zeros(10), circuit_of(1)), (np.zeros(200_000), circuit_of(40_000))):
        assert (await run_with(client, encode({"array": array, "circuit": circuit}))).status == "QUEUED"
        wrong = await refusal(run_with(client, encode({"array": circuit, "circuit": array})))
        assert wrong.violations == {
            "array.__type__": '"ndarray" was expected',
            "circuit.__type__": '"QuantumCircuit" was expected',
        }


async def test_a_refusal_says_what_a_value_is_and_not_how_it_is_encoded(client: Client) -> None:
    schema = {"properties": {"a": {"type": "integer"}, "text": {"pattern": "^x"}}}
    await client.upload(arguments_schema=json.dumps(schema))
    encoded = '{"__type__":"ndarray","__value__":"..."} is not of type "integer"'
    for count in (1000, 200_000):
        array = np.random.default_rng(1).random(count)
        assert (await refusal(run_with(client, encode({"a": array})))).violations == {"a": encoded}
    long = await refusal(client.run(arguments_json=json.dumps({"text": "y" * 5000}).encode()))
    assert long.violations == {"text": f'"{"y" * 99}... does not match "^x"'}

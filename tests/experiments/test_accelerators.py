"""What a step launches, from a small HLO text; the compilers themselves are an extra."""

from dataclasses import replace

import jax
import pytest

from experiments.accelerators import __main__ as accelerators
from experiments.accelerators.hlo import parse
from experiments.accelerators.targets import TARGETS, Program, Target, compile_epoch
from experiments.mnist_rnn import PRESETS

# Three steps of five inner iterations each, as XLA prints them for a GPU, less what isn't read: a
# slice of the batch, a loop that writes one row at a time, an all-reduce. XLA has not annotated the
# trip count of the outer loop.
HLO = """\
HloModule jit_train_epoch, is_scheduled=true, entry_computation_layout={(f32[3,8,4]{2,1,0})->f32[]}

%inner_body (arg.1: (s32[], f32[8,4], f32[5,8,4])) -> (s32[], f32[8,4], f32[5,8,4]) {
  %arg.1 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %product.1 = f32[8,4]{1,0} custom-call(%h.1, %h.1), custom_call_target="__cublas$gemm"
  %update_fusion.1 = f32[5,8,4]{2,1,0} fusion(%all.1, /*index=1*/%i.1), kind=kLoop, calls=%fused
  %add_fusion.1 = s32[] fusion(%i.1), kind=kLoop, calls=%fused_add
  ROOT %tuple.1 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) tuple(%add_fusion.1, %product.1, %all)
}

%body (arg.3: (s32[], f32[3,8,4], f32[5,8,4])) -> (s32[], f32[3,8,4], f32[5,8,4]) {
  %slice_fusion.1 = f32[8,4]{1,0} fusion(%inputs.1, %i.3), kind=kLoop, calls=%fused_slice
  %start.1 = s32[] constant(0)
  %while.1 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) while(%tuple.2), condition=%inner, \
body=%inner_body, backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0"}}
  %sum.2 = f32[5,8,4]{2,1,0} all-reduce-start(%states.1), channel_id=1, to_apply=%add.1
  %done.1 = f32[5,8,4]{2,1,0} all-reduce-done(%sum.2)
  %next.1 = s32[] add(%i.3, %one.2)
}

%condition (arg.4: (s32[], f32[3,8,4], f32[5,8,4])) -> pred[] {
  %limit.2 = s32[] constant(3), metadata={op_name="while (5)"}
  ROOT %less.2 = pred[] compare(%i.4, %limit.2), direction=LT
}

ENTRY %main (inputs: f32[3,8,4]) -> f32[5,8,4] {
  %zeros.1 = f32[5,8,4]{2,1,0} broadcast(%float.1), dimensions={}
  %while.2 = (s32[], f32[3,8,4]{2,1,0}) while(%tuple.4), condition=%condition, body=%body
}
"""
PROGRAM = Program(HLO, steps=3, batch_size=8, memory=3 * 2**20, seconds=1.25)


def test_loop_bodies_count_as_often_as_they_run():
    launched = [(times, line.name) for times, line in parse(HLO).step(3)]
    assert launched == [
        *((1, "slice_fusion.1"), (5, "product.1"), (5, "update_fusion.1"), (5, "add_fusion.1")),
        (1, "sum.2"),
    ]
    assert accelerators.count(PROGRAM) == (17, 1)
    assert accelerators.list_kernels(PROGRAM)[1] == "     5 × product f32[8,4]{1,0}"


def test_unknown_loops_are_refused():
    with pytest.raises(ValueError, match="no loop of 4 steps"):
        parse(HLO).step(4)
    text = HLO.replace("%limit.2 = s32[] constant(3)", "%limit.2 = s32[] negate(%i.4)")
    with pytest.raises(ValueError, match=r"number of iterations of while\.2 is unknown"):
        parse(text).step(3)


def test_table(monkeypatch, capsys):
    monkeypatch.setattr(accelerators, "compile_epoch", lambda *_: PROGRAM)
    accelerators.run(accelerators.Config(targets=("h100",)))
    *_, row, empty, note = capsys.readouterr().out.splitlines()
    assert row == "| keras, batch 8 | one H100 | 17 | 1 | 3 | 1.2 |"
    assert (empty, note) == (
        "",
        "keras, batch 8: at an assumed 2 to 3 µs per launch, 17 launches take 0.03 to 0.05 ms a "
        "step, 0 to 0 ms an epoch of 3 steps",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no compiler for one TPU v5e: install the extra 'accelerators', as in pip install"),
        (
            ["--presets", "x"],
            "--presets must be one of fast, sprint, record, mingru, tf1, keras; got x",
        ),
        (["--examples", "100"], "--examples must be at least a batch of 150; got 100"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, words, message):
    target = replace(TARGETS["v5e"], module="no.compiler")
    if "--examples" in words:
        monkeypatch.setattr(Target, "devices", lambda _: jax.devices()[:1])
    monkeypatch.setitem(TARGETS, "v5e", target)
    monkeypatch.setattr(accelerators, "without_devices", lambda: None)
    monkeypatch.setattr("sys.argv", ["accelerators", "--targets", "v5e", *words])
    with pytest.raises(SystemExit) as exit_:
        accelerators.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.program
def test_epoch_compiles_for_other_devices(monkeypatch):
    """CPUs stand in for accelerators: one all-reduce a step, in a loop of all steps."""
    monkeypatch.setattr(Target, "devices", lambda _: jax.devices()[:2])
    compiled = compile_epoch(PRESETS["keras"], TARGETS["v5e-4"], 310)
    assert (compiled.batch_size, compiled.steps) == (150, 2)
    assert compiled.memory > 310 * 28 * 28
    assert accelerators.count(compiled)[1] == 1

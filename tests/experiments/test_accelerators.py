"""What a step launches, from a small HLO text; the compilers themselves are an extra."""

from dataclasses import replace

import pytest

from experiments.accelerators import __main__ as accelerators
from experiments.accelerators.hlo import parse, size
from experiments.accelerators.targets import TARGETS, Program

# Three steps of five inner iterations each, as XLA prints them for a GPU: a slice of the batch, a
# loop that writes one row at a time, an all-reduce. The counter of the outer loop is not noted.
HLO = """\
HloModule jit_train_epoch, is_scheduled=true, entry_computation_layout={(f32[3,8,4]{2,1,0})->f32[]}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a, %b)
}

%fused_slice (param_0: f32[3,8,4], param_1: s32[]) -> f32[8,4] {
  %param_0 = f32[3,8,4]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  %slice.1 = f32[1,8,4]{2,1,0} dynamic-slice(%param_0, %param_1, %zero.1, %zero.1), dynamic_slice_sizes={1,8,4}
  ROOT %bitcast.1 = f32[8,4]{1,0} bitcast(%slice.1)
}

%fused_update (param_0.1: f32[5,8,4], param_1.1: f32[8,4], param_2: s32[]) -> f32[5,8,4] {
  %param_0.1 = f32[5,8,4]{2,1,0} parameter(0)
  %param_1.1 = f32[8,4]{1,0} parameter(1)
  %bitcast.2 = f32[1,8,4]{2,1,0} bitcast(%param_1.1)
  %param_2 = s32[] parameter(2)
  %zero.2 = s32[] constant(0)
  ROOT %update.1 = f32[5,8,4]{2,1,0} dynamic-update-slice(%param_0.1, %bitcast.2, %param_2, %zero.2, %zero.2)
}

%fused_add (param_0.2: s32[]) -> s32[] {
  %param_0.2 = s32[] parameter(0)
  %one.1 = s32[] constant(1)
  ROOT %add.2 = s32[] add(%param_0.2, %one.1)
}

%inner_body (arg.1: (s32[], f32[8,4], f32[5,8,4])) -> (s32[], f32[8,4], f32[5,8,4]) {
  %arg.1 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %h.1 = f32[8,4]{1,0} get-tuple-element(%arg.1), index=1
  %all.1 = f32[5,8,4]{2,1,0} get-tuple-element(%arg.1), index=2
  %product.1 = f32[8,4]{1,0} custom-call(%h.1, %h.1), custom_call_target="__cublas$gemm", metadata={op_name="dot (a)"}
  %update_fusion.1 = f32[5,8,4]{2,1,0} fusion(%all.1, %product.1, /*index=2*/%i.1), kind=kLoop, calls=%fused_update
  %add_fusion.1 = s32[] fusion(%i.1), kind=kLoop, calls=%fused_add
  ROOT %tuple.1 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) tuple(%add_fusion.1, %product.1, %update_fusion.1)
}

%inner_condition (arg.2: (s32[], f32[8,4], f32[5,8,4])) -> pred[] {
  %arg.2 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%arg.2), index=0
  %limit.1 = s32[] constant(99)
  ROOT %less.1 = pred[] compare(%i.2, %limit.1), direction=LT
}

%body (arg.3: (s32[], f32[3,8,4], f32[5,8,4])) -> (s32[], f32[3,8,4], f32[5,8,4]) {
  %arg.3 = (s32[], f32[3,8,4]{2,1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i.3 = s32[] get-tuple-element(%arg.3), index=0
  %inputs.1 = f32[3,8,4]{2,1,0} get-tuple-element(%arg.3), index=1
  %all.2 = f32[5,8,4]{2,1,0} get-tuple-element(%arg.3), index=2
  %slice_fusion.1 = f32[8,4]{1,0} fusion(%inputs.1, %i.3), kind=kLoop, calls=%fused_slice
  %start.1 = s32[] constant(0)
  %tuple.2 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) tuple(%start.1, %slice_fusion.1, %all.2)
  %while.1 = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) while(%tuple.2), condition=%inner_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}
  %states.1 = f32[5,8,4]{2,1,0} get-tuple-element(%while.1), index=2
  %sum.2 = f32[5,8,4]{2,1,0} all-reduce-start(%states.1), channel_id=1, to_apply=%add.1
  %done.1 = f32[5,8,4]{2,1,0} all-reduce-done(%sum.2)
  %one.2 = s32[] constant(1)
  %next.1 = s32[] add(%i.3, %one.2)
  ROOT %tuple.3 = (s32[], f32[3,8,4]{2,1,0}, f32[5,8,4]{2,1,0}) tuple(%next.1, %inputs.1, %done.1)
}

%condition (arg.4: (s32[], f32[3,8,4], f32[5,8,4])) -> pred[] {
  %arg.4 = (s32[], f32[3,8,4]{2,1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %i.4 = s32[] get-tuple-element(%arg.4), index=0
  %limit.2 = s32[] constant(3), metadata={op_name="while (5)"}
  ROOT %less.2 = pred[] compare(%i.4, %limit.2), direction=LT
}

ENTRY %main (inputs: f32[3,8,4]) -> f32[5,8,4] {
  %inputs = f32[3,8,4]{2,1,0} parameter(0)
  %start.2 = s32[] constant(0)
  %float.1 = f32[] constant(0)
  %zeros.1 = f32[5,8,4]{2,1,0} broadcast(%float.1), dimensions={}
  %tuple.4 = (s32[], f32[3,8,4]{2,1,0}, f32[5,8,4]{2,1,0}) tuple(%start.2, %inputs, %zeros.1)
  %while.2 = (s32[], f32[3,8,4]{2,1,0}, f32[5,8,4]{2,1,0}) while(%tuple.4), condition=%condition, body=%body
  ROOT %result = f32[5,8,4]{2,1,0} get-tuple-element(%while.2), index=2
}
"""  # noqa: E501
PROGRAM = Program(HLO, steps=3, batch_size=8, memory=3 * 2**20, seconds=1.25)


def test_loop_bodies_count_as_often_as_they_run():
    launched = [(times, one.name) for times, one in parse(HLO).step(3)]
    assert launched == [
        (1, "slice_fusion.1"),
        (5, "product.1"),
        (5, "update_fusion.1"),
        (5, "add_fusion.1"),
        (1, "sum.2"),
    ]


def test_slices_move_what_they_take():
    module = parse(HLO)
    moved = {one.name: module.traffic(one) for _, one in module.step(3)}
    rows, index = 8 * 4 * 4, 4
    assert moved == {
        "slice_fusion.1": rows + index + rows,
        "product.1": 3 * rows,
        "update_fusion.1": rows + index + rows,
        "add_fusion.1": 2 * index,
        "sum.2": 2 * 5 * rows,
    }


def test_buffers_next_to_the_units_of_a_tpu_move_nothing():
    text = HLO.replace("f32[8,4]{1,0}", "f32[8,4]{1,0:T(8,128)S(1)}")
    module = parse(text)
    moved = {one.name: module.traffic(one) for _, one in module.step(3)}
    assert moved["product.1"] == 0
    assert moved["slice_fusion.1"] == 8 * 4 * 4 + 4


def test_other_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match="no loop of 4 steps"):
        parse(HLO).step(4)


def test_unknown_numbers_of_iterations_are_refused():
    text = HLO.replace("%limit.2 = s32[] constant(3)", "%limit.2 = s32[] negate(%i.4)")
    with pytest.raises(ValueError, match=r"number of iterations of while\.2 is unknown"):
        parse(text).step(3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[150,10]{1,0}", 6000),
        ("(s32[], bf16[3,2]{1,0:T(8,128)(2,1)S(1)}, pred[7]{0})", 4 + 12 + 7),
        ("token[]", 0),
        ("f8e4m3fn[16]{0}", 16),
        ("s4[6]{0}", 3),
    ],
)
def test_sizes(shape, expected):
    assert size(shape) == expected


def test_table():
    row = accelerators.summarize("keras", "one H100", PROGRAM)
    assert accelerators.format_table([row])[1:] == [
        "|---|---|---|---|---|---|---|",
        "| keras | one H100 | 17 | 0.0 | 1 | 3 | 1.2 |",
    ]
    assert accelerators.launching(row, 400) == (
        "keras, one H100: at an assumed 2 to 3 µs per launch, 17 launches take 0.03 to 0.05 ms a "
        "step, 14 to 20 ms an epoch of 400 steps"
    )
    assert accelerators.list_kernels(PROGRAM)[1] == "     5 × product f32[8,4]{1,0}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no compiler for one TPU v5e: install the extra 'accelerators', as in pip install"),
        (
            ["--presets", "slow"],
            "--presets must be one of fast, sprint, record, tf1, keras; got slow",
        ),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, words, message):
    target = replace(TARGETS["v5e"], module="no.compiler")
    monkeypatch.setitem(TARGETS, "v5e", target)
    monkeypatch.setattr(accelerators, "without_devices", lambda: None)
    monkeypatch.setattr("sys.argv", ["accelerators", "--targets", "v5e", *words])
    with pytest.raises(SystemExit) as exit:
        accelerators.main()
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")

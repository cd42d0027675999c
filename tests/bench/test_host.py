"""What a GPU waits for: the operations that are counted are those that run."""

from contextlib import suppress

import pytest
import torch

from perakit.bench import contenders, host
from perakit.bench.timing import Step
from perakit.fast.product import recorded


@pytest.fixture(scope="module")
def steps():
    """A step of each contender of rank 8, each made once already."""
    names = dict.fromkeys(["base", *(name for pair in host.PAIRS for name in pair)])
    who = [contenders.Contender(name, 8) for name in contenders.installed(names)]
    made = contenders.steps(who, host.SIZE, host.SIZE, host.TOKENS, torch.float32, "cpu", 0)
    for step in made.values():
        step.run()
    return {one.name: step for one, step in made.items()}


def is_view(name):
    schemas = torch._C._jit_get_schemas_for_operator(name)
    returned = [one.alias_info for schema in schemas for one in schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def splits(name):
    """Whether torch makes it of other operations before anybody could count it."""
    schemas = torch._C._jit_get_schemas_for_operator(name)
    overloads = [f"{name}.{schema.overload_name}".rstrip(".") for schema in schemas]
    return all(
        torch._C._dispatch_has_kernel_for_dispatch_key(one, "CompositeImplicitAutograd")
        for one in overloads
        if torch._C._dispatch_has_kernel(one)
    )


def profiled(step):
    """The operations that are no views, as torch's profiler saw them: nothing in Python watches."""
    step.reset()
    with torch.autograd.profiler.profile() as profile:
        step.run()
    found, todo = [], [one for one in profile.function_events if one.cpu_parent is None]
    while todo:
        event = todo.pop()
        ours = event.name.startswith("aten::")
        if not ours or splits(event.name):
            todo += event.cpu_children
        elif not is_view(event.name):
            found.append(event.name)
    return len(found)


def test_the_count_is_what_a_profiler_sees(steps):
    for name, step in steps.items():
        assert host.operations(step) == profiled(step), name


def test_counts_worked_out_by_hand():
    """A sum and a product; a transpose, a slice and a view are none."""
    x = torch.ones(3, 2)
    counted = host.operations(Step(lambda: (x.T[:1].view(3) + 1).mul_(2)))
    assert counted == 2


def test_plain_lora_makes_ten(steps):
    """The base's product and one back; its own two and a sum, two back by the factors and two on
    the way to x, and a sum of the two gradients by x.
    """
    assert host.operations(steps["base"]) == 2
    assert host.operations(steps["plain lora"]) == 10


def test_what_is_counted_does_not_know(steps):
    """perakit makes again what it keeps where a mode of torch watches; here it must not."""
    assert host.operations(Step(lambda: torch.ones(2) if recorded() else None)) == 0

    def fail():
        raise RuntimeError("broken step")

    before = torch._C._len_torch_dispatch_stack
    with pytest.raises(RuntimeError, match="broken step"):
        host.operations(Step(fail))
    assert torch._C._len_torch_dispatch_stack is before
    assert before() == 0


def test_a_cell_has_two_of_one_rank_and_no_base():
    found = [[(one.name, one.rank) for one in pair] for pair in host.pairs()]
    assert found == [[(one, r), (other, r)] for r in (8, 32, 64) for one, other in host.PAIRS]
    assert len(set(host.PAIRS)) == 6
    others = [over for over, under in host.PAIRS if under == "plain lora"]
    assert others == ["lora", "pera", "pera plain", "peft r", "authors"]
    assert ("pera", "authors") in host.PAIRS


def test_where_peft_is_not_installed_its_pair_is_left_out(monkeypatch):
    whole = host.pairs()
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    assert host.pairs() == [pair for pair in whole if pair[0].name != "peft r"]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(RuntimeError), host.one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_plain_way_is_the_formula_by_autograd(steps):
    step = steps["pera plain"]
    step.reset()
    with torch.autograd.profiler.profile() as profile:
        step.run()
    assert not [one for one in profile.function_events if "AdaptedProduct" in one.name]

from wherry.runtime import mounting, rehearsal, steps


def test_a_rehearsal_plans_a_whole_start_and_runs_none_of_it(monkeypatch):
    executed = []
    for step in (steps.JoinCgroup, mounting.MountRoot, mounting.EnterRoot):
        monkeypatch.setattr(step, "execute", lambda *_: executed.append(1))
    rehearsal.specialise(lambda: None)
    assert not executed

from wherry.runtime import rehearsal, steps


def test_a_rehearsal_plans_a_whole_start_and_runs_none_of_it(monkeypatch):
    executed = []
    for name in ("JoinCgroup", "MountRoot", "EnterRoot"):
        monkeypatch.setattr(getattr(steps, name), "execute", lambda *_: executed.append(1))
    rehearsal.specialise(lambda: None)
    assert not executed

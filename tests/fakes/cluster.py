"""Ray with nodes that are not there: every task is run where its answer is wanted."""

from types import SimpleNamespace


class RayError(Exception):
    pass


class Answer:
    """What a task will give."""

    def __init__(self, run):
        self.run = run


class FakeRay:
    """A cluster in this thread.

    Args:
        nodes: By name, the resources of each.

    Attributes:
        exceptions: As Ray's module of that name.
        deaths: How often the next tasks of each function die after they have run, by
            name; they are run again then, as Ray does, up to `max_retries`.
        most: Tasks of each function that had been asked for at once, by name.
        asked: Answers that nobody has waited for yet, by name of the function.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, **nodes):
        self.resources, self.deaths, self.most, self.asked = nodes, {}, {}, {}

    def nodes(self):
        return [
            {"NodeID": name, "NodeManagerHostname": name, "Alive": bool(has)}
            | {"Resources": has}
            for name, has in self.resources.items()
        ]

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: next(iter(self.resources)))

    def remote(self, **options):
        return lambda what: _Remote(self, what, options)

    def get(self, answer):
        return answer.run()

    def wait(self, answers, *, num_returns=1, timeout):
        assert timeout > 0
        for left in self.asked.values():
            left -= {*answers[:num_returns]}
        return answers[:num_returns], answers[num_returns:]


class _Remote:
    def __init__(self, ray, what, options):
        self._ray, self._what, self._options = ray, what, options

    def options(self, *, scheduling_strategy):
        del scheduling_strategy
        return self

    def remote(self, *arguments):
        if isinstance(self._what, type):
            return _Actor(self._what(*arguments))
        name = self._what.__name__

        def run():
            for _ in range(1 + self._options["max_retries"]):
                result = self._what(*arguments)
                if not self._ray.deaths.get(name):
                    return result
                self._ray.deaths[name] -= 1
            raise RayError("a line\nThe worker died.")

        asked = self._ray.asked.setdefault(name, set())
        answer = Answer(run)
        asked.add(answer)
        self._ray.most[name] = max(self._ray.most.get(name, 0), len(asked))
        return answer


class _Actor:
    def __init__(self, one):
        self._one = one

    def __getattr__(self, name):
        def remote(*arguments):
            value = getattr(self._one, name)(*arguments)
            return Answer(lambda: value)

        return SimpleNamespace(remote=remote)

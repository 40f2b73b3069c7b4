.PHONY: demo test check clean

demo: ## build, run, edit and rebuild the Node application of the notes, then clean up
	tools/setup demo
	.venv/bin/python demo/demo.py

test: ## every test, on this machine, as root
	tools/setup test
	.venv/bin/python tools/check
	.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: ## format, lint, types, import direction, test mirror
	tools/setup test
	.venv/bin/python tools/check

clean:
	rm -rf .venv build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

"""Many runs as one job: avocado finds, starts and watches them; the verdicts are the lab's own.

::

    vdpalab run ──> engine ── avocado Job in a process of its own (controller)
                      │            └── spawner: admission by RAM and cores, one process per run
                      │                     └── runner: lab.scenarios.run.execute, in the main thread
                      └── watches events.jsonl and result.json of every run directory, and judges by them

    avocado run X.toml ── resolver ── the same spawner and runner
"""

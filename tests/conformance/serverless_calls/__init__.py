"""Calls everything that the public client of Qiskit Serverless has, in an environment of that client's version.

python -m serverless_calls HOST TOKENS [SUBJECT ...]    # TOKENS: of each user, by what they may do, as JSON

It prints, as JSON, what came of each method. Each cell asserts what a user relies on. It returns nothing where that
holds, or says in what the method differs. Interpreters run it that have nothing else of this repository.
"""

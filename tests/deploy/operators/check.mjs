// Holds documents against schemas:  node check.mjs FOLDER  (where node_modules is)
// It reads [[schema, document], ...] and writes what is wrong with each document, [[problem, ...], ...].
//
// A schema is a function here (a validator that ajv made): it reads what it knows, and says nothing of what it does not. So each
// document is shown to it through a view that notes what is read. What nobody has read is no field of the schema.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const packages = pathToFileURL(`${process.argv[2]}/node_modules/`);

function watched(value, read) {
  if (value === null || typeof value !== "object") return value;
  if (!read.has(value)) read.set(value, new Set());
  return new Proxy(value, {
    get(target, key) {
      read.get(target).add(key);
      return watched(target[key], read);
    },
  });
}

function* unread(value, read, path) {
  if (value === null || typeof value !== "object") return;
  for (const [key, inner] of Object.entries(value)) {
    const known = Array.isArray(value) || read.get(value)?.has(key);
    if (known) yield* unread(inner, read, [...path, key]);
    else yield `${[...path, key].join(".")}: an unknown field`;
  }
}

/** A path as the other checks write it, of a JSON pointer. */
function dotted(pointer) {
  const steps = pointer.split("/").slice(1);
  return steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~")).join(".");
}

async function problems([schema, document]) {
  const { validate } = await import(new URL(schema, packages));
  const read = new Map();
  validate(watched(document, read));
  const wrong = (validate.errors ?? []).map(
    (error) => `${dotted(error.instancePath)}: ${error.keyword} ${JSON.stringify(error.params)}`,
  );
  return [...wrong, ...unread(document, read, [])];
}

const given = JSON.parse(readFileSync(0, "utf8"));
const found = [];
for (const each of given) found.push(await problems(each));
process.stdout.write(JSON.stringify(found));

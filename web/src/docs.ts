/** The API's page at /api/v1/docs: each call as the server's description tells it, with a form to try it. */

import { adoptToken, headers, setToken } from "./api";
import { byId, make } from "./dom";

interface Schema {
  $ref?: string;
  type?: string;
  format?: string;
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  examples?: unknown[];
  description?: string;
  anyOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
}

interface Parameter {
  name: string;
  in: "path" | "query";
  required?: boolean;
  description?: string;
  schema: Schema;
}

interface Body {
  content: Record<string, { schema?: Schema }>;
}

interface Operation {
  operationId: string;
  summary: string;
  description: string;
  tags: string[];
  parameters?: Parameter[];
  requestBody?: Body;
  responses: Record<string, { description: string } & Partial<Body>>;
  security?: unknown[];
}

interface Description {
  info: { description: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

const JSON_KIND = "application/json";
const BASE = new URL(".", location.href);
let description: Description;

function plain(text: string): string {
  return text.replaceAll("`", "");
}

function resolved(schema: Schema): Schema {
  const name = schema.$ref?.split("/").at(-1);
  return name ? description.components.schemas[name]! : schema;
}

/** A value that fits the schema, to begin from. */
function example(schema: Schema): unknown {
  const { type, examples, default: usual, enum: values, anyOf, items, properties } = resolved(schema);
  if (examples) return examples[0];
  if (usual !== undefined) return usual;
  if (values) return values[0];
  if (anyOf) return example(anyOf[0]!);
  if (properties) return Object.fromEntries(Object.entries(properties).map(([name, value]) => [name, example(value)]));
  if (type === "array") return items ? [example(items)] : [];
  return type === "boolean" ? false : type === "integer" || type === "number" ? 0 : "";
}

function kindOf(schema: Schema): string {
  const { type, format, enum: values, const: value, anyOf, items } = resolved(schema);
  if (anyOf) return anyOf.map(kindOf).join(" or ");
  if (values) return values.map((each) => JSON.stringify(each)).join(", ");
  if (value !== undefined) return JSON.stringify(value);
  if (type === "array") return `list of ${items ? kindOf(items) : "anything"}`;
  return format === "binary" ? "file" : (type ?? "anything");
}

/** What the fields of an object are, those within it too. */
function fieldsOf(schema: Schema): HTMLElement[] {
  const { properties = {} } = resolved(schema);
  const lines = Object.entries(properties).map(([name, value]) => {
    const inner = [value, value.items, ...(value.anyOf ?? []), ...(value.anyOf ?? []).map(({ items }) => items)];
    const parts = inner.filter((each) => each !== undefined).flatMap(fieldsOf);
    const told = value.description ?? resolved(value).description ?? "";
    return make("li", {}, make("code", {}, name), ` ${kindOf(value)}. `, make("span", { className: "quiet" }, plain(told)), ...parts);
  });
  return lines.length ? [make("ul", { className: "fields" }, ...lines)] : [];
}

type Control = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;

function controlFor(schema: Schema): Control {
  const { enum: values, type, default: usual } = resolved(schema);
  const choices = values ?? (type === "boolean" ? [true, false] : null);
  if (!choices) return make("input", { type: "text", value: usual === undefined || usual === null ? "" : String(usual) });
  const select = make("select", {}, ...choices.map((choice) => make("option", {}, String(choice))));
  select.value = String(usual);
  return select;
}

function field(name: string, control: Control, told: string): HTMLElement {
  control.setAttribute("aria-label", name);
  return make("div", { className: "field" }, make("code", {}, name), control, make("span", { className: "quiet" }, plain(told)));
}

/** The form of a call: its fields, and what makes the request of them. */
function formOf(path: string, method: string, operation: Operation): HTMLElement {
  const output = make("div", { className: "output" });
  output.setAttribute("aria-live", "polite");
  const form = make("form", { className: "call" });
  const parameters = (operation.parameters ?? []).map((parameter) => {
    const control = controlFor(parameter.schema);
    if (parameter.required) control.required = true;
    form.append(field(parameter.name, control, parameter.description ?? ""));
    return { parameter, control };
  });
  const content = operation.requestBody?.content ?? {};
  const json = content[JSON_KIND]?.schema;
  const text = make("textarea", { spellcheck: false, value: json ? JSON.stringify(example(json), null, 2) : "" });
  if (json) form.append(field("body", text, JSON_KIND), ...fieldsOf(json));
  const parts = Object.entries(content["multipart/form-data"]?.schema?.properties ?? {}).map(([name, schema]) => {
    const isFile = (schema.items ?? schema).format === "binary";
    const control = isFile ? make("input", { type: "file", multiple: schema.type === "array" }) : controlFor(schema);
    form.append(field(name, control, schema.description ?? ""));
    return { name, control };
  });
  form.append(make("button", { className: "primary" }, "Send"));

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const url = new URL(path.replace(/^\/api\/v1\//, ""), BASE);
    for (const { parameter, control } of parameters) {
      const place = encodeURIComponent(`{${parameter.name}}`);
      if (parameter.in === "path") url.pathname = url.pathname.replace(place, encodeURIComponent(control.value));
      // A list is written with commas.
      else if (control.value !== "" && control.value !== String(parameter.schema.default))
        for (const value of parameter.schema.type === "array" ? control.value.split(",") : [control.value])
          url.searchParams.append(parameter.name, value.trim());
    }
    let body: string | FormData | undefined;
    if (json) body = text.value;
    if (parts.length) {
      body = new FormData();
      for (const { name, control } of parts)
        if (control instanceof HTMLInputElement && control.files) for (const file of control.files) body.append(name, file);
        else if (control.value) body.append(name, control.value);
    }
    const sent = { ...headers(), ...(json ? { "Content-Type": JSON_KIND } : {}) };
    output.replaceChildren(make("pre", {}, curlOf(method, url, body)), make("p", {}, "Waiting for the answer…"));
    try {
      const answer = await fetch(url, { method, headers: sent, body });
      output.lastElementChild!.replaceWith(...(await shown(answer)));
    } catch {
      output.lastElementChild!.replaceWith(make("p", {}, "The server does not answer."));
    }
  });
  return make("div", {}, form, output);
}

function curlOf(method: string, url: URL, body: string | FormData | undefined): string {
  const token = "Authorization" in headers() ? ' -H "Authorization: Bearer $TOKEN"' : "";
  const quoted = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;
  let data = "";
  if (typeof body === "string") data = ` --json ${quoted(body)}`;
  else if (body)
    for (const [name, value] of body)
      data += ` -F ${quoted(value instanceof File ? `${name}=@${value.name}` : `${name}=${value}`)}`;
  return `curl -X ${method.toUpperCase()}${token}${data} ${quoted(url.href)}`;
}

/** An answer: its status, and its text or the file that it is. */
async function shown(answer: Response): Promise<Node[]> {
  const kind = answer.headers.get("Content-Type") ?? "";
  const status = make("p", {}, make("strong", {}, `${answer.status} ${answer.statusText}`), ` ${kind}`);
  if (answer.status === 204) return [status];
  if (kind.startsWith(JSON_KIND)) {
    return [status, make("pre", {}, JSON.stringify(await answer.json(), null, 2))];
  }
  if (kind.startsWith("text/")) {
    const told = make("pre");
    void (async () => {
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) told.append(part.value);
    })();
    return [status, told];
  }
  const file = await answer.blob();
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1];
  const link = make("a", { href: URL.createObjectURL(file), download: name ?? answer.url.split("/").at(-1)! });
  link.textContent = `Save ${link.download} (${file.size} bytes)`;
  return [status, link];
}

function detailsOf(path: string, method: string, operation: Operation): HTMLElement {
  const details = make("details", { id: operation.operationId });
  const short = path.replace("/api/v1", "");
  const [first, ...more] = operation.description.split("\n\n");
  details.append(
    make("summary", {}, make("code", { className: "method" }, method.toUpperCase()), make("code", { className: "path" }, short), make("span", {}, plain(first!))),
  );
  // What is inside is made when it is first opened: the description has many fields.
  const fill = (): void => {
    const answers = make("dl", { className: "answers" });
    for (const [status, { description: told, content }] of Object.entries(operation.responses)) {
      const schema = content?.[JSON_KIND]?.schema;
      const fields = schema && status < "400" ? fieldsOf(schema.items ?? schema) : [];
      answers.append(make("dt", {}, make("code", {}, status)), make("dd", {}, plain(told), ...fields));
    }
    const texts = more.map((text) => make("p", {}, plain(text)));
    details.append(make("div", { className: "body" }, ...texts, formOf(path, method, operation), make("h2", {}, "Answers"), answers));
  };
  details.addEventListener("toggle", fill, { once: true });
  return details;
}

async function start(): Promise<void> {
  adoptToken();
  description = (await (await fetch(new URL("openapi.json", BASE))).json()) as Description;
  const calls = byId("calls");
  const texts = description.info.description.split("\n\n");
  byId("about").replaceWith(...texts.map((text) => make("p", {}, plain(text))));
  const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  byId("token-form").hidden = !operations.some(({ operation }) => operation.security);
  for (const tag of new Set(operations.map(({ operation }) => operation.tags[0]!))) {
    const section = make("section", {}, make("h2", {}, tag));
    for (const { path, method, operation } of operations)
      if (operation.tags[0] === tag) section.append(detailsOf(path, method, operation));
    calls.append(section);
  }
  const wanted = document.getElementById(location.hash.slice(1));
  if (wanted instanceof HTMLDetailsElement) wanted.open = true;
}

const token = byId<HTMLInputElement>("token");
byId("token-form").addEventListener("submit", (event) => event.preventDefault());
token.addEventListener("input", () => setToken(token.value));
void start();

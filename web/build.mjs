// Builds the page into src/transunet/serve/page: the same bytes from the same sources, on any machine.
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = process.argv[2] ?? join(HERE, "..", "src", "transunet", "serve", "page");
const COPIED = ["index.html", "docs.html", "style.css", "docs.css", "icon.svg", "csp.txt"];
// What decides the result. `build_page.py` hashes the same files in the same way.
const SOURCES = ["package.json", "package-lock.json", "build.mjs", "src", "licences"];

const GRADIENTS = "this.gradientTexture = gradientGL({\n        gl: this.gl,";

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const slashed = (path) => relative(HERE, path).split(sep).join("/");

function filesIn(path) {
  const entries = readdirSync(path, { withFileTypes: true });
  return entries.flatMap((each) => (each.isDirectory() ? filesIn(join(path, each.name)) : [join(path, each.name)]));
}

function sourcesHash() {
  const paths = SOURCES.flatMap((name) => (name.includes(".") ? [join(HERE, name)] : filesIn(join(HERE, name))));
  const lines = paths.map((path) => `${slashed(path)} ${sha256(readFileSync(path))}\n`);
  return sha256(lines.sort().join(""));
}

function packageOf(input) {
  return /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
}

/** The licence of each package that is in the bundle. */
function licences(metafile) {
  const names = new Set(Object.keys(metafile.inputs).map(packageOf).filter(Boolean));
  return [...names].sort().map(licence).join(`\n${"-".repeat(80)}\n\n`);
}

function licence(name) {
  const folder = join(HERE, "node_modules", name);
  const { version, license, homepage } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const kept = join(HERE, "licences", `${basename(name)}.txt`); // for packages that come without
  const own = readdirSync(folder).filter((file) => /^licen[sc]e/i.test(file)).sort()[0];
  const path = own ? join(folder, own) : kept;
  if (!existsSync(path)) throw new Error(`${name} comes without a licence: add ${slashed(kept)}`);
  const text = readFileSync(path, "utf8").replaceAll("\r\n", "\n").trim();
  return `${name} ${version} (${license})\n${homepage ?? ""}\n\n${text}\n`;
}

/** NiiVue computes gradients, for 3D only, whenever the window changes: a second or more for a large CT. */
const gradientsOnDemand = {
  name: "gradients-on-demand",
  setup({ onLoad }) {
    onLoad({ filter: /@niivue[\\/]niivue[\\/]build[\\/]niivue[\\/]index\.js$/ }, ({ path }) => {
      const [before, after, ...more] = readFileSync(path, "utf8").split(GRADIENTS);
      if (after === undefined || more.length) throw new Error(`${path}: not the NiiVue that this build knows`);
      return { contents: `${before}if (!this.skipsGradients) ${GRADIENTS}${after}` };
    });
  },
};

const { metafile, outputFiles } = await build({
  absWorkingDir: HERE,
  entryPoints: ["src/main.ts", "src/docs.ts"],
  outdir: ".",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // licences.txt has them all
  alias: { zarrita: "./src/zarr_absent.ts" },
  plugins: [gradientsOnDemand],
  metafile: true,
  write: false,
  logLevel: "warning",
});

const made = `${PAGE}.new`;
rmSync(made, { recursive: true, force: true });
mkdirSync(made, { recursive: true });
for (const { path, contents } of outputFiles) writeFileSync(join(made, basename(path)), contents);
writeFileSync(join(made, "licences.txt"), licences(metafile));
for (const name of COPIED) cpSync(join(HERE, "src", name), join(made, name));
// A browser may keep files of an older version: the page asks for what it was built with.
const versioned = (name) => `${name}?${sha256(readFileSync(join(made, name))).slice(0, 12)}"`;
for (const name of ["index.html", "docs.html"]) {
  const text = readFileSync(join(made, name), "utf8");
  writeFileSync(join(made, name), text.replace(/(\w+\.(?:js|css))"/g, (_, file) => versioned(file)));
}
const files = Object.fromEntries(readdirSync(made).sort().map((name) => [name, sha256(readFileSync(join(made, name)))]));
writeFileSync(join(made, "manifest.json"), `${JSON.stringify({ sources: sourcesHash(), files }, null, 2)}\n`);
rmSync(PAGE, { recursive: true, force: true });
renameSync(made, PAGE);
console.log(`built ${relative(process.cwd(), PAGE) || "."}`);

/** Files that are dropped or chosen: single ones, several, whole folders; and those that are saved. */

import { byId, make } from "./dom";

const MOST_FILES = 5000;
/** What systems leave in folders, and a DICOM medium's table of contents. */
const CLUTTER = /^(\.|thumbs\.db$|desktop\.ini$|dicomdir$)/i;

/** Read what was dropped, folders with all that is in them. */
export async function dropped(transfer: DataTransfer): Promise<File[]> {
  // Entries must be taken before the first await: the browser empties the list after the event.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  const found: File[] = [];
  for (const entry of entries) if (entry) await collect(entry, found);
  return found;
}

async function collect(entry: FileSystemEntry, found: File[]): Promise<void> {
  if (found.length > MOST_FILES) return;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    if (!CLUTTER.test(file.name)) found.push(file);
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return; // a reader gives about a hundred at a time
    for (const each of some) await collect(each, found);
  }
}

/** Several folders may repeat a file's name; the server keeps one file per name. */
export function withoutClashes(files: File[]): File[] {
  const names = new Set(files.map((file) => file.name));
  if (names.size === files.length) return files;
  return files.map((file, n) => new File([file], `${String(n + 1).padStart(5, "0")}_${file.name}`));
}

/** Take files from the whole page, but what is dropped on `small` for something else. */
export function takeDrops(small: HTMLElement, onImage: (files: File[]) => void, onReference: (files: File[]) => void): void {
  const veil = byId("veil");
  let depth = 0;
  const over = (event: DragEvent): boolean => !small.hidden && small.contains(event.target as Node);
  const shown = (event: DragEvent | null): void => {
    veil.hidden = !event || over(event);
    small.classList.toggle("over", !!event && over(event));
  };
  document.addEventListener("dragenter", (event) => (depth++, shown(event)));
  document.addEventListener("dragleave", () => --depth <= 0 && ((depth = 0), shown(null)));
  document.addEventListener("dragover", (event) => (event.preventDefault(), shown(event)));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    shown(null);
    const use = over(event) ? onReference : onImage;
    if (event.dataTransfer) void dropped(event.dataTransfer).then((files) => files.length && use(files));
  });
}

/** Let a button open a file dialog. */
export function chooser(button: string, input: string, use: (files: File[]) => void): void {
  const field = byId<HTMLInputElement>(input);
  byId(button).addEventListener("click", () => {
    field.onchange = () => {
      const files = [...(field.files ?? [])].filter((file) => !CLUTTER.test(file.name));
      field.value = ""; // so that the same file can be chosen again
      if (files.length) use(files);
    };
    field.click();
  });
}

export const stem = (name: string): string => name.replace(/\.(nii(\.gz)?|[a-z]{3,4})$/i, "") || "image";

export function save(blob: Blob, name: string): void {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Reading the NIfTI-1 files that the server writes: header, affine, voxels.
 *
 * NiiVue draws; this file answers what the page asks about voxels, in the file's own voxel order.
 */

import type { Label } from "./types";

export type Vector = [number, number, number];
type Voxels = Uint8Array | Int8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | Float32Array | Float64Array;

const TYPES: Record<number, { new (buffer: ArrayBuffer): Voxels; BYTES_PER_ELEMENT: number }> = {
  2: Uint8Array,
  4: Int16Array,
  8: Int32Array,
  16: Float32Array,
  64: Float64Array,
  128: Uint8Array,
  256: Int8Array,
  512: Uint16Array,
  768: Uint32Array,
};
const RGB24 = 128;
const HEADER = 352;

export class Nifti {
  readonly dims: Vector;
  readonly channels: number;
  readonly data: Voxels;
  readonly affine: number[];
  readonly sizes: Vector;
  /** Of a label map: what its values are called. */
  structures: Label[] = [];
  private readonly slope: number;
  private readonly intercept: number;
  private readonly rgb: boolean;
  private readonly inverse: number[];

  /** @param bytes the whole file, not compressed. */
  constructor(readonly bytes: ArrayBuffer) {
    const view = new DataView(bytes);
    if (view.getInt32(0, true) !== 348) throw new Error("not a little-endian NIfTI-1 file");
    const extent = (axis: number): number => Math.max(1, view.getInt16(40 + 2 * axis, true));
    this.dims = [extent(1), extent(2), extent(3)];
    const code = view.getInt16(70, true);
    const type = TYPES[code];
    if (!type) throw new Error(`voxels of NIfTI type ${code} cannot be shown`);
    this.rgb = code === RGB24;
    const frames = this.rgb ? 3 : extent(4) * extent(5);
    this.channels = frames;
    const start = view.getFloat32(108, true);
    const end = start + this.count * frames * type.BYTES_PER_ELEMENT;
    this.data = new type(bytes.slice(start, end));
    this.slope = view.getFloat32(112, true) || 1;
    this.intercept = view.getFloat32(116, true) || 0;
    this.affine = affineOf(view);
    this.inverse = inverted(this.affine);
    const a = this.affine;
    this.sizes = [0, 1, 2].map((j) => Math.hypot(a[j]!, a[4 + j]!, a[8 + j]!)) as Vector;
  }

  /** Of the affine's axes: a voxel's volume in mm³, negative where they are mirrored. */
  get determinant(): number {
    const [a, b, c, , d, e, f, , g, h, i] = this.affine as [number, number, number, number, number, number, number, number, number, number, number];
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  }

  /** Of one voxel. */
  get millilitres(): number {
    return Math.abs(this.determinant) / 1000;
  }

  get count(): number {
    return this.dims[0] * this.dims[1] * this.dims[2];
  }

  index([i, j, k]: Vector): number {
    return i + this.dims[0] * (j + this.dims[1] * k);
  }

  inside(voxel: Vector): boolean {
    return voxel.every((value, axis) => value >= 0 && value < this.dims[axis]!);
  }

  value(voxel: Vector, channel = 0): number {
    const at = this.index(voxel);
    const raw = this.data[this.rgb ? at * 3 + channel : at + channel * this.count]!;
    return raw * this.slope + this.intercept;
  }

  /** Millimetres to the nearest voxel of the file. */
  voxel(mm: ArrayLike<number>): Vector {
    return apply(this.inverse, mm).map(Math.round) as Vector;
  }

  mm(voxel: ArrayLike<number>): Vector {
    return apply(this.affine, voxel);
  }

  /** The range of one channel, over at most a million voxels, leaving out a fraction at each end. */
  range(channel = 0, leftOut = 0): [number, number] {
    const step = Math.max(1, Math.floor(this.count / 1e6));
    const sample: number[] = [];
    const [first, stride] = this.rgb ? [channel, 3] : [channel * this.count, 1];
    for (let n = 0; n < this.count; n += step) sample.push(this.data[first + n * stride]! as number);
    const sorted = Float64Array.from(sample).sort();
    const at = (fraction: number): number =>
      sorted[Math.round(fraction * (sorted.length - 1))]! * this.slope + this.intercept;
    return [at(leftOut), at(1 - leftOut)];
  }
}

/** Read a NIfTI file, gzip or not. */
export async function readNifti(blob: Blob): Promise<Nifti> {
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const zipped = start[0] === 0x1f && start[1] === 0x8b;
  const stream = zipped ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  return new Nifti(await new Response(stream).arrayBuffer());
}

/**
 * Put `part` where it lies in `whole`: a map on the same grid, or one slice of it, that of `voxel`.
 *
 * A file of labels carries the place that the original tells; a picture tells none, and only its
 * view was laid out for the screen.
 */
export function placedIn(whole: Nifti, part: Nifti, voxel: Vector = [0, 0, 0]): Nifti {
  const first = part.dims.map((extent, axis) => (extent === whole.dims[axis] ? 0 : voxel[axis]!));
  const origin = whole.mm(first);
  const bytes = part.bytes.slice(0);
  const view = new DataView(bytes);
  view.setInt16(252, 0, true); // no qform
  view.setInt16(254, 1, true); // the sform counts
  whole.affine.forEach((value, n) => view.setFloat32(280 + 4 * n, n % 4 === 3 ? origin[(n - 3) / 4]! : value, true));
  whole.sizes.forEach((size, axis) => view.setFloat32(80 + 4 * axis, size, true));
  return new Nifti(bytes);
}

/** An empty label map on the grid of `source`. */
export function labelsLike(source: Nifti): Nifti {
  const bytes = new ArrayBuffer(HEADER + source.count);
  new Uint8Array(bytes).set(new Uint8Array(source.bytes, 0, 348));
  const view = new DataView(bytes);
  [3, ...source.dims, 1, 1, 1, 1].forEach((value, n) => view.setInt16(40 + 2 * n, value, true));
  view.setInt16(70, 2, true);
  view.setInt16(72, 8, true);
  view.setFloat32(108, HEADER, true);
  view.setFloat32(112, 1, true);
  view.setFloat32(116, 0, true);
  return new Nifti(bytes);
}

/** A label map as a file: its header, and the voxels as they are now. */
export async function zipped({ bytes, data }: Nifti): Promise<Blob> {
  const start = new DataView(bytes).getFloat32(108, true);
  const parts = [bytes.slice(0, start), data as Uint8Array<ArrayBuffer>];
  return new Response(new Blob(parts).stream().pipeThrough(new CompressionStream("gzip"))).blob();
}

function affineOf(view: DataView): number[] {
  if (view.getInt16(254, true) > 0)
    return Array.from({ length: 12 }, (_, n) => view.getFloat32(280 + 4 * n, true));
  if (view.getInt16(252, true) > 0) return quaternionAffine(view);
  const size = (axis: number): number => view.getFloat32(76 + 4 * axis, true) || 1;
  return [size(1), 0, 0, 0, 0, size(2), 0, 0, 0, 0, size(3), 0];
}

/** The qform, as in the NIfTI-1 header's description of method 2. */
function quaternionAffine(view: DataView): number[] {
  const float = (offset: number): number => view.getFloat32(offset, true);
  const [b, c, d] = [float(256), float(260), float(264)];
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const [x, y, z] = [float(80), float(84), float(88) * (float(76) < 0 ? -1 : 1)];
  return [
    (a * a + b * b - c * c - d * d) * x, 2 * (b * c - a * d) * y, 2 * (b * d + a * c) * z, float(268),
    2 * (b * c + a * d) * x, (a * a + c * c - b * b - d * d) * y, 2 * (c * d - a * b) * z, float(272),
    2 * (b * d - a * c) * x, 2 * (c * d + a * b) * y, (a * a + d * d - c * c - b * b) * z, float(276),
  ];
}

function apply(m: number[], v: ArrayLike<number>): Vector {
  const row = (r: number): number => m[4 * r]! * v[0]! + m[4 * r + 1]! * v[1]! + m[4 * r + 2]! * v[2]! + m[4 * r + 3]!;
  return [row(0), row(1), row(2)];
}

/** The inverse of an affine of three rows of four: that of its 3 x 3 part by cofactors, and the shift. */
function inverted(m: number[]): number[] {
  const at = (row: number, column: number): number => m[4 * (row % 3) + (column % 3)]!;
  const cofactor = (row: number, column: number): number =>
    at(row + 1, column + 1) * at(row + 2, column + 2) - at(row + 1, column + 2) * at(row + 2, column + 1);
  const determinant = at(0, 0) * cofactor(0, 0) + at(0, 1) * cofactor(0, 1) + at(0, 2) * cofactor(0, 2);
  return [0, 1, 2].flatMap((row) => {
    const part = [0, 1, 2].map((column) => cofactor(column, row) / determinant);
    const shift = part.reduce((sum, value, column) => sum - value * m[4 * column + 3]!, 0);
    return [...part, shift];
  });
}

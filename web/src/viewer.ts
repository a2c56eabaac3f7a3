/** NiiVue, and nothing else of it, behind the few words that the page needs. */

import { DRAG_MODE, NVImage, NVMesh, SLICE_TYPE } from "@niivue/niivue";
import type { Nifti, Vector } from "./nifti";
import { type Comparing, CROSSHAIR, DrawnLabels, Overlay } from "./overlay";
import { type Body, Screen, strides } from "./screen";
import type { Grid } from "./shapes";
import { surfacesOf } from "./surfaces";
import { canvasPixel, isOn, type Tile } from "./tiles";

export type View = "all" | "axial" | "coronal" | "sagittal" | "render";
export interface Colour {
  index: number;
  color: string;
}

const SLICE_TYPES: Record<View, SLICE_TYPE> = {
  all: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};
/** What is drawn where: in fractions of the screen. */
export interface Place {
  plane: Exclude<View, "all">;
  left: number;
  top: number;
  width: number;
  height: number;
  /** Whether it shows the second label map of two side by side. */
  second: boolean;
}

const PLANES: Place["plane"][] = ["axial", "coronal", "sagittal"];
/** Between two planes, of the screen. */
const HAIR = 0.001;
/** A label map that is drawn. */
interface Shown {
  source: Nifti;
  drawn: DrawnLabels;
}
/** The 3D crosshair's, of the image's width. */
const CROSSHAIR_PERCENT = 0.25;
/** Surfaces wait until nothing changes for so long. */
const CALM_MS = 800;
/** A processor without a graphics card shades images up to here at once. */
const SHADED_BY_PROCESSOR = 1e6;
/** The axis (right, anterior, superior) that a plane's slices follow; NiiVue numbers planes so. */
export const AXIS_OF: Record<number, number> = { 0: 2, 1: 1, 2: 0 };

/** From black to yellow: perceptually even, told apart by people with any colour vision. */
const RAMP = {
  R: [0, 87, 188, 249, 252],
  G: [0, 16, 55, 142, 255],
  B: [4, 110, 84, 9, 164],
  A: [0, 255, 255, 255, 255],
  I: [0, 64, 128, 192, 255],
};

export class Viewer {
  private readonly nv: Screen;
  private readonly overlay: Overlay;
  private image: NVImage | null = null;
  private labels: Shown | null = null;
  private compared: Shown | null = null;
  private comparing: Comparing = "outline";
  private names: [string, string] = ["", ""];
  private share = 0;
  private heat: NVImage | null = null;
  private picture = false;
  private view: View = "all";
  private body: Body = "faint";
  private crosshair = true;
  private hidden = new Set<number>();
  private opacity = 0.5;
  private shown = true;
  private strength = 1;
  private outlined = false;
  private software = false;
  private shaded = false;
  private centre: Vector = [0, 0, 0];
  private attached = false;
  private radiological = true;
  /** Called after each drawing of what lies on the planes. */
  readonly drawn: (() => void)[] = [];
  private making: AbortController | null = null;
  private calm = 0;

  /** @param moved is told the crosshair's place in mm and the plane that was clicked, if any. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    overlay: HTMLCanvasElement,
    moved: (mm: Vector, plane: number) => void,
    private readonly windowed: () => void,
  ) {
    this.overlay = new Overlay(overlay);
    this.nv = new Screen({
      backColor: [0, 0, 0, 1],
      crosshairColor: [...channels(CROSSHAIR).map((each) => each / 255), 1],
      crosshairWidth: CROSSHAIR_PERCENT,
      crosshairWidthUnit: "percent",
      show3Dcrosshair: true,
      dragAndDropEnabled: false,
      dragMode: DRAG_MODE.windowing,
      isClipPlanesCutaway: true,
      isOrientationTextVisible: false, // letters.ts
      isRadiologicalConvention: true,
      // Between two slices a map of one slice would be drawn faint.
      isForceMouseClickToVoxelCenters: true,
      loadingText: "",
      meshThicknessOn2D: 0, // surfaces are for 3D
      logLevel: "error",
      longTouchTimeout: 2e9,
      tileMargin: -1,
      windowingGainFactor: 1,
    });
    this.nv.onLocationChange = (location) => {
      const { mm, axCorSag } = location as { mm: Vector; axCorSag: number };
      moved([mm[0], mm[1], mm[2]], axCorSag);
    };
    this.nv.onIntensityChange = () => this.windowed();
    this.nv.drawn = () => this.drawOverlay();
  }

  /** @throws when the browser has no WebGL2. */
  async attach(): Promise<void> {
    if (!this.canvas.getContext("webgl2")) throw new Error("no WebGL2");
    this.takeKeysAndDoubleClicks();
    this.takeTwoFingers();
    await this.nv.attachToCanvas(this.canvas, true);
    this.attached = true;
    this.software = /swiftshader|llvmpipe|software/i.test(renderer(this.nv.gl));
    this.nv.addColormap("heat", { ...RAMP, min: 0, max: 0 } as never);
    for (const event of ["mousemove", "mouseup", "touchmove"])
      this.canvas.addEventListener(event, () => this.image && this.windowed());
  }

  /** Light surfaces in 3D, if the machine can compute the gradients. */
  private async shade(voxels: number): Promise<void> {
    this.shaded = !this.software || voxels < SHADED_BY_PROCESSOR;
    await this.nv.setVolumeRenderIllumination(this.shaded ? 0.5 : 0);
    await this.letThrough();
  }

  /** What is even is let through in 3D, but not where the body is cut: the cut is to be seen. */
  private letThrough(): Promise<void> {
    return this.nv.setGradientOpacity(this.shaded && this.body !== "cut" ? 0.35 : 0);
  }

  /** NiiVue has keys of its own, and resets the window at a double click; the page decides those. */
  private takeKeysAndDoubleClicks(): void {
    for (const name of ["keydown", "keyup", "dblclick"])
      this.canvas.addEventListener(name, (event) => event.stopImmediatePropagation());
  }

  /** Two fingers on a plane zoom; NiiVue would scroll its slices. */
  private takeTwoFingers(): void {
    let last = 0;
    this.canvas.addEventListener("touchmove", (event) => {
      const [a, b] = event.touches;
      if (!a || !b || !this.tiles().some((tile) => isOn(tile, canvasPixel(a, this.canvas)))) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (last) this.zoom(apart / last);
      last = apart;
    }, { passive: false });
    for (const name of ["touchstart", "touchend", "touchcancel"] as const) this.canvas.addEventListener(name, () => (last = 0));
  }

  async showImage(source: Nifti, picture: boolean, range: [number, number]): Promise<void> {
    if (!this.attached) return;
    this.image = this.labels = this.compared = this.heat = null;
    this.nv.volumes = [];
    this.makeSurfaces();
    this.picture = picture;
    await this.shade(source.count);
    this.image = await volume(source, "image", "gray", 1);
    [this.image.cal_min, this.image.cal_max] = range;
    this.nv.opts.isRadiologicalConvention = !picture && this.radiological;
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1] as never;
    this.choose(picture ? "axial" : "all");
    this.arrange();
    this.centre = source.mm(source.dims.map((count) => Math.floor(count / 2)));
    this.moveTo(this.centre);
  }

  /**
   * Give NiiVue what is to be drawn, the image first.
   *
   * Its own ways of adding and removing send the image to the graphics card again for each overlay.
   */
  private arrange(): void {
    const all = [this.image, this.heat].filter((each) => each !== null);
    this.nv.volumes = all;
    this.nv.back = all[0] ?? null;
    this.nv.overlays = all.slice(1);
    if (all.length > 1) this.refreshOverlays();
    else this.nv.updateGLVolume();
  }

  showLabels(source: Nifti | null, colours: Colour[]): void {
    this.hidden.clear();
    this.labels = this.drawable(source, colours);
    this.makeSurfaces();
    this.draw();
  }

  /** Show another label map with that of `showLabels`; `names` are what the two are called. */
  compareWith(source: Nifti | null, colours: Colour[], names: [string, string]): void {
    this.compared = this.drawable(source, colours);
    this.names = names;
    this.relay();
  }

  /** @param comparing how two label maps are shown. */
  setComparing(comparing: Comparing): void {
    this.comparing = comparing;
    this.share = 0;
    this.relay();
  }

  /** @param share how much of the compared label map stands for the other, from 0 to 1. */
  blend(share: number): void {
    this.share = share;
    this.drawOverlay();
  }

  /** Draw the labels that are shown again after their array was changed; their surfaces follow when that ends. */
  updateLabels(): void {
    this.labels?.drawn.forget();
    this.drawOverlay();
    this.makeSurfaces(CALM_MS);
  }

  private drawable(source: Nifti | null, colours: Colour[]): Shown | null {
    if (!source || !this.image) return null;
    const table = new Map(colours.map(({ index, color }) => [index, color]));
    return { source, drawn: new DrawnLabels(source.data, table, this.extents, ...strides(this.image), this.hidden) };
  }

  setHidden(hidden: Set<number>): void {
    this.hidden.clear();
    for (const each of hidden) this.hidden.add(each);
    this.labels?.drawn.forget();
    this.compared?.drawn.forget();
    this.draw();
  }

  setLabelsShown(shown: boolean): void {
    this.shown = shown;
    this.draw();
  }

  setOpacity(opacity: number): void {
    this.opacity = opacity;
    this.drawOverlay();
  }

  /** @param share of their opacity, while something else is to be seen; 0: not at all. */
  setLabelsStrength(share: number): void {
    this.strength = share;
    this.draw();
  }

  setOutline(on: boolean): void {
    this.outlined = on;
    this.drawOverlay();
  }

  setBody(body: Body): void {
    this.body = body;
    if (this.image) void this.letThrough();
    this.draw();
  }

  draw(): void {
    if (!this.attached) return;
    this.nv.body = this.nv.meshes.length ? this.body : "whole";
    for (const mesh of this.nv.meshes) mesh.visible = this.shown && this.strength > 0 && !this.hidden.has(Number(mesh.name));
    this.nv.drawScene();
  }

  /** Draw what lies on the planes, and not the image below it. */
  private drawOverlay(): void {
    if (!this.attached) return;
    const seen = this.shown && this.strength > 0;
    const places = this.layout().filter(({ plane }) => plane !== "render");
    this.overlay.draw(this.tiles(), {
      labels: seen ? this.labels?.drawn ?? null : null,
      compared: seen ? this.compared?.drawn ?? null : null,
      comparing: this.comparing,
      share: places.map(({ second }) => (second ? 1 : this.comparing === "blink" ? this.share : 0)),
      names: this.names,
      opacity: this.strength * this.opacity,
      outlined: this.outlined,
      crosshair: this.crosshair && this.image ? this.place : null,
    }, this.canvas);
    for (const each of this.drawn) each();
  }

  /** The planes on the screen, and where each voxel of them is: in pixels of the canvas. */
  tiles(): Tile[] {
    return this.image ? this.nv.tiles() : [];
  }

  /** Make the surfaces for 3D anew, where it is to be seen, after `wait` milliseconds of calm. */
  private makeSurfaces(wait = 0): void {
    this.making?.abort();
    clearTimeout(this.calm);
    const { signal } = (this.making = new AbortController());
    this.calm = window.setTimeout(() => void this.replaceSurfaces(signal), wait);
  }

  private async replaceSurfaces(signal: AbortSignal): Promise<void> {
    const labels = this.labels;
    const made: NVMesh[] = [];
    if (labels && !this.picture)
      for await (const { label, points, triangles } of surfacesOf(labels.source, signal)) {
        const color = labels.drawn.colours.get(label);
        const rgba = Uint8Array.of(...channels(color ?? "#808080"), 255);
        if (color) made.push(new NVMesh(points, triangles, String(label), rgba, 1, true, this.nv.gl));
      }
    const stale = signal.aborted ? made : this.nv.meshes;
    for (const mesh of stale) mesh.unloadMesh(this.nv.gl);
    if (signal.aborted) return;
    this.nv.meshes = made;
    this.nv.setCrosshairWidth(CROSSHAIR_PERCENT); // of all that is drawn, which is another now
    this.draw();
  }

  /** @param top what is drawn brightest; below the share `solid` of it the map fades away. */
  async showHeat(source: Nifti | null, opacity = 0, top = 1, solid = 1): Promise<void> {
    if (!this.image || (!source && !this.heat)) return;
    this.heat = null;
    if (!source) return this.arrange();
    this.heat = await volume(source, "heat", "heat", opacity);
    this.heat.cal_min = solid * top;
    this.heat.cal_max = top;
    this.heat.colormapType = 1;
    this.arrange();
  }

  setHeatOpacity(opacity: number): void {
    if (!this.heat) return;
    this.heat.opacity = opacity;
    this.refreshOverlays();
  }

  /** Draw the overlays again without sending the image to the graphics card again. */
  private refreshOverlays(): void {
    if (!this.image) return;
    this.nv.volumes.forEach((each, layer) => layer > 0 && this.nv.refreshLayers(each, layer));
    this.nv.drawScene();
  }

  get window(): [number, number] {
    return this.image ? [this.image.cal_min!, this.image.cal_max!] : [0, 1];
  }

  set window([low, high]: [number, number]) {
    if (!this.image) return;
    this.image.cal_min = low;
    this.image.cal_max = high;
    this.nv.refreshLayers(this.image, 0);
    this.nv.drawScene();
  }

  setView(view: View): void {
    if (this.choose(view) && this.image) this.nv.refreshLayers(this.image, 0);
    this.draw();
  }

  /** Lay the planes out; return whether the 3D view needs gradients that were left out so far. */
  private choose(view: View): boolean {
    this.view = this.picture ? "axial" : view;
    const places = this.layout();
    this.nv.customLayout = places.length === 1 ? [] : places.map(({ plane, left, top, width, height }) => ({
      sliceType: SLICE_TYPES[plane],
      position: [left, top, width, height],
    }));
    this.nv.opts.sliceType = SLICE_TYPES[this.view];
    const without = !this.shaded || !places.some(({ plane }) => plane === "render");
    const stale = this.nv.skipsGradients === true && !without;
    this.nv.skipsGradients = without;
    return stale;
  }

  private relay(): void {
    this.setView(this.view);
  }

  /** What is drawn where: every plane a part of the screen, whatever the image's shape. */
  layout(): Place[] {
    const sides = this.compared !== null && this.comparing === "sides";
    const planes: Place["plane"][] = this.view !== "all" ? [this.view] : sides ? PLANES : [...PLANES, "render"];
    if (planes.length === 1 && (!sides || planes[0] === "render")) return grid(planes, 1, 1, () => false);
    if (!sides) return grid(planes, 2, 2, () => false);
    const wide = this.canvas.clientWidth > this.canvas.clientHeight;
    // Of several planes the two lie above each other, of one plane beside each other; upright screens turn that.
    if ((planes.length > 1) === wide) return grid([...planes, ...planes], planes.length, 2, (n) => n >= planes.length);
    return grid(planes.flatMap((plane) => [plane, plane]), 2, planes.length, (n) => n % 2 === 1);
  }

  setCrosshair(on: boolean): void {
    this.crosshair = on;
    this.nv.opts.show3Dcrosshair = on;
    this.draw();
  }

  setSmooth(on: boolean): void {
    if (this.attached) this.nv.setInterpolation(!on);
  }

  setRadiological(on: boolean): void {
    this.radiological = on;
    if (this.attached && !this.picture) this.nv.setRadiologicalConvention(on);
  }

  setFrame(frame: number): void {
    if (this.image) this.nv.setFrame4D(this.image.id, frame);
  }

  resetView(): void {
    if (!this.image) return;
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
    this.nv.setRenderAzimuthElevation(110, 10);
    this.nv.setScale(1);
    this.moveTo(this.centre);
  }

  zoom(factor: number): void {
    if (!this.image) return;
    const [x, y, z, scale] = this.nv.scene.pan2Dxyzmm as unknown as number[];
    this.nv.setPan2Dxyzmm([x!, y!, z!, Math.min(10, Math.max(0.2, scale! * factor))]);
  }

  /** How the image's voxels lie in the array of its file. */
  get grid(): Grid {
    if (!this.image) return { extents: [1, 1, 1], start: 0, stride: [1, 1, 1], sizes: [1, 1, 1] };
    const [start, stride] = strides(this.image);
    const [, ...sizes] = this.image.pixDimsRAS!;
    return { extents: this.extents, start, stride, sizes: sizes as Vector };
  }

  /** Voxels along right, anterior, superior. */
  get extents(): Vector {
    const dims = this.image?.dimsRAS ?? [3, 1, 1, 1];
    return [dims[1]!, dims[2]!, dims[3]!];
  }

  /** The crosshair's voxel along right, anterior, superior. */
  get place(): Vector {
    if (!this.image) return [0, 0, 0];
    return [...this.nv.frac2vox(this.nv.scene.crosshairPos)] as Vector;
  }

  /** A place along right, anterior, superior, in voxels, as one of the image's file. */
  fileVoxel(place: Vector): Vector {
    const { permRAS, dimsRAS } = this.image!;
    const voxel: Vector = [0, 0, 0];
    for (const [n, axis] of permRAS!.entries())
      voxel[Math.abs(axis) - 1] = axis > 0 ? place[n]! : dimsRAS![n + 1]! - 1 - place[n]!;
    return voxel;
  }

  move(right: number, anterior: number, superior: number): void {
    if (this.image) this.nv.moveCrosshairInVox(right, anterior, superior);
  }

  moveTo(mm: Vector): void {
    if (!this.image) return;
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm as never, 0, true) as never; // the patient's, also of an oblique grid
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }
}

function renderer(gl: WebGL2RenderingContext): string {
  const about = gl.getExtension("WEBGL_debug_renderer_info");
  return about ? String(gl.getParameter(about.UNMASKED_RENDERER_WEBGL)) : "";
}

/** Rows of planes that fill the screen, with a hair's breadth between them. */
function grid(planes: Place["plane"][], columns: number, rows: number, second: (n: number) => boolean): Place[] {
  const [across, down] = [1 / columns, 1 / rows];
  const hair = (count: number): number => (count > 1 ? HAIR : 0);
  return planes.map((plane, n) => ({
    plane,
    left: across * (n % columns) + hair(columns),
    top: down * Math.floor(n / columns) + hair(rows),
    width: across - 2 * hair(columns),
    height: down - 2 * hair(rows),
    second: second(n),
  }));
}

/** Red, green and blue of #rrggbb. */
const channels = (color: string): number[] => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

function volume(source: Nifti, name: string, colormap: string, opacity: number): Promise<NVImage> {
  // Its declaration asks for all twenty arguments; they have defaults.
  const open = NVImage.new.bind(NVImage) as (...all: unknown[]) => Promise<NVImage>;
  return open(source.bytes, `${name}.nii`, colormap, opacity);
}

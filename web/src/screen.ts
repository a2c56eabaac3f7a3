/** NiiVue with what lies on its planes and in its 3D view drawn by the page. */

import { Niivue, SLICE_TYPE } from "@niivue/niivue";
import type { Vector } from "./nifti";
import type { Tile } from "./tiles";

/** How the body is drawn in 3D around the surfaces of structures: not, as a veil, or open towards the viewer. */
export type Body = "hidden" | "faint" | "cut" | "whole";

/** NiiVue's number of a plane: the axes (right, anterior, superior) across it, along the screen, and up. */
const AXES: Record<number, [axis: number, across: number, up: number]> = {
  [SLICE_TYPE.AXIAL]: [2, 0, 1],
  [SLICE_TYPE.CORONAL]: [1, 0, 2],
  [SLICE_TYPE.SAGITTAL]: [0, 1, 2],
};
const FAINT_BODY = 0.25;
const UNCUT = [2, 0, 0];

export class Screen extends Niivue {
  /** `build.mjs` gives NiiVue this switch. */
  skipsGradients?: boolean;
  body: Body = "whole";
  /** Called after each drawing. */
  drawn?: () => void;

  override drawScene(): string | void {
    const told = super.drawScene();
    this.drawn?.();
    return told;
  }

  /** The planes draw their own, in pixels of the screen. */
  override drawCrosshairs3D(...all: Parameters<Niivue["drawCrosshairs3D"]>): void {
    const inPlane = all[3];
    if (!inPlane) super.drawCrosshairs3D(...all);
  }

  override drawImage3D(...all: Parameters<Niivue["drawImage3D"]>): void {
    if (this.body === "hidden") return;
    const [, azimuth, elevation] = all;
    const { gl, renderShader } = this;
    this.scene.clipPlaneDepthAziElevs = this.body === "cut" ? this.cuts(azimuth, elevation) : [UNCUT];
    renderShader!.use(gl);
    gl.uniform1f(renderShader!.uniforms.backOpacity!, this.body === "faint" ? FAINT_BODY : 1);
    gl.depthMask(this.body !== "faint"); // a veil hides nothing
    super.drawImage3D(...all);
    gl.depthMask(true);
  }

  /** Three planes through the crosshair; with `isClipPlanesCutaway`, what all of them cut off is left out. */
  private cuts(azimuth: number, elevation: number): number[][] {
    const [turn, tilt] = [(azimuth * Math.PI) / 180, (elevation * Math.PI) / 180];
    const viewer = [-Math.sin(turn) * Math.cos(tilt), -Math.cos(turn) * Math.cos(tilt), Math.sin(tilt)];
    // Azimuth and elevation of the planes that look along an axis, backwards and forwards.
    const looking = [[[90, 0], [270, 0]], [[180, 0], [0, 0]], [[0, 90], [0, -90]]];
    return viewer.map((towards, axis) => {
      const sign = towards < 0 ? -1 : 1;
      const depth = -sign * (this.scene.crosshairPos[axis]! - 0.5);
      return [depth, ...looking[axis]![sign < 0 ? 0 : 1]!];
    });
  }

  /** The planes as they were drawn last. */
  tiles(): Tile[] {
    const image = this.volumes[0];
    if (!image?.extentsMinOrtho || !image.pixDimsRAS || !image.dimsRAS) return [];
    const { extentsMinOrtho: first, pixDimsRAS: size } = image;
    const voxel = this.frac2vox(this.scene.crosshairPos);
    return this.screenSlices.flatMap(({ axCorSag, leftTopWidthHeight, leftTopMM, fovMM }) => {
      const axes = AXES[axCorSag];
      if (!axes || leftTopMM.length < 2) return [];
      const [axis, across, up] = axes;
      const [left, top, width, height] = leftTopWidthHeight as [number, number, number, number];
      const [x, y] = [width / fovMM[0]!, -height / fovMM[1]!]; // pixels per millimetre
      const corner: Tile["corner"] = [left + x * (first[across]! - leftTopMM[0]!), top + height + y * (first[up]! - leftTopMM[1]!)];
      const step: Tile["step"] = [x * size[across + 1]!, y * size[up + 1]!];
      return { axis, across, up, slice: voxel[axis]!, rect: [left, top, width, height] as Tile["rect"], corner, step };
    });
  }
}

/** Where a voxel lies in an array that NiiVue was given, by its place along right, anterior, superior. */
export function strides({ img2RASstart, img2RASstep }: { img2RASstart?: number[]; img2RASstep?: number[] }): [start: number, stride: Vector] {
  const stride = img2RASstep as Vector;
  return [img2RASstart!.reduce((a, b) => a + b), [...stride]];
}

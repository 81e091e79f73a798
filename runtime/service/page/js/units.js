// Numbers as people read them.
import { currentLanguage } from "./strings.js";

const GIB = 2 ** 30;
const MIB = 2 ** 20;

export function number(value, digits = 3) {
  return new Intl.NumberFormat(currentLanguage(), { maximumSignificantDigits: digits }).format(value);
}

export const whole = (value) => new Intl.NumberFormat(currentLanguage()).format(value);

export function bytes(value) {
  if (value >= GIB) return `${(value / GIB).toFixed(2)} GiB`;
  return `${(value / MIB).toFixed(value < 10 * MIB ? 1 : 0)} MiB`;
}

export function seconds(value) {
  if (value >= 1) return `${number(value)} s`;
  if (value >= 0.001) return `${number(value * 1000)} ms`;
  return `${number(value * 1e6)} µs`;
}

#!/bin/bash
# survived.sh: passes on what tests print, and counts at the end what they say they have survived.
set -euo pipefail

declare -A count
while IFS= read -r line; do
  printf '%s\n' "$line"
  if [[ $line =~ ^survived:\ ([^{]+)$ ]]; then
    kind=${BASH_REMATCH[1]}
    count[$kind]=$((${count[$kind]:-0} + 1))
  fi
done
echo "Survived, with nothing lost:"
for kind in "${!count[@]}"; do printf '%6d  %s\n' "${count[$kind]}" "$kind"; done | sort -k2

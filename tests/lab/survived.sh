#!/bin/bash
# survived.sh: passes on what tests print, and counts at the end what they say they have survived. A test says so only after
# the judges have seen that nothing was lost; and where a test failed, or none was run, nothing is claimed.
set -euo pipefail

declare -A count
passed=0 failed=0 late=0
while IFS= read -r line; do
  printf '%s\n' "$line"
  case $line in
    "test result: ok."*) passed=$((passed + 1)) ;;
    "test result: FAILED."*) failed=$((failed + 1)) ;;
    "too late: "* | "the run was over first"*) late=$((late + 1)) ;;
    "survived: "*) kind=${line#survived: }; count[$kind]=$((${count[$kind]:-0} + 1)) ;;
  esac
done
total=0
for kind in "${!count[@]}"; do total=$((total + ${count[$kind]})); done
if ((failed > 0 || passed == 0)); then
  echo "Not everything was judged: $passed test programs passed, $failed did not. Before that, survived:"
elif ((total == 0)); then
  echo "Nothing happened, so nothing was survived."
else
  echo "Survived $total faults, and after each of them nothing was lost:"
fi
for kind in "${!count[@]}"; do printf '%6d  %s\n' "${count[$kind]}" "$kind"; done | sort -k2
echo "Besides, $late came after the run had ended well."
((failed == 0 && passed > 0 && total > 0))
